"""One request for a prediction as people would send it: with curl, httpx and tritonclient.

A snippet is HTML in which each value of the row, and the address, has an element of its own: the page's script puts
what the form has in its place, in the form that ``data-form`` names.
"""

import json
from dataclasses import dataclass

from contract.dataset import Dataset, Task
from contract.feature import Feature, Value
from serving.http.pages import text
from serving.protocol.codec import LABEL, PREDICT, PROBABILITIES, datatype
from serving.protocol.tensors import BYTES


@dataclass(frozen=True)
class Snippet:
    """``code`` is HTML; ``name`` identifies it in the page, ``label`` is what people read."""

    name: str
    label: str
    code: str


def snippets(dataset: Dataset, address: str, *, key: bool) -> list[Snippet]:
    """The request for a prediction of the dataset's example.

    Args:
        dataset: whose model is asked.
        address: of the service, such as ``http://localhost:8000``.
        key: whether the request needs a key; the snippets read it from ``API_KEY``.
    """
    return [
        Snippet("curl", "curl", _curl(dataset, address, key=key)),
        Snippet("httpx", "Python", _httpx(dataset, address, key=key)),
        Snippet("tritonclient", "tritonclient", _tritonclient(dataset, address, key=key)),
    ]


def _curl(dataset: Dataset, address: str, *, key: bool) -> str:
    rows = ",\n".join(
        f"    {text(_in_shell(json.dumps(feature.name, ensure_ascii=False)))}: {_value(number, feature, 'shell')}"
        for number, feature in enumerate(dataset.features)
    )
    authorization = '  -H "Authorization: Bearer $API_KEY" \\\n' if key else ""
    return f"""curl {_base(address)}/predict/{text(dataset.name)} \\
  -H 'Content-Type: application/json' \\
{text(authorization)}  -d '{{
{rows}
  }}'"""


def _httpx(dataset: Dataset, address: str, *, key: bool) -> str:
    rows = "\n".join(
        f"    {text(json.dumps(feature.name, ensure_ascii=False))}: {_value(number, feature, 'python')},"
        for number, feature in enumerate(dataset.features)
    )
    return f"""{_imports(key, "import httpx")}

row = {{
{rows}
}}
answer = httpx.post(
    "{_base(address)}/predict/{text(dataset.name)}",
    json=row,{_headers(key, "    ")}
)
answer.raise_for_status()
print(answer.json())"""


def _tritonclient(dataset: Dataset, address: str, *, key: bool) -> str:
    rows = "\n".join(
        f'    {text(json.dumps(feature.name, ensure_ascii=False))}: ("{datatype(feature)}", '
        f"{_value(number, feature, 'text' if datatype(feature) == BYTES else 'number')}),"
        for number, feature in enumerate(dataset.features)
    )
    imports = """import numpy as np
import tritonclient.http as triton
from tritonclient.utils import triton_to_np_dtype"""
    outputs = [PREDICT] if dataset.task is Task.REGRESSION else [PREDICT, LABEL, PROBABILITIES]
    shown = "\n".join(f'print("{name}", result.as_numpy("{name}"))' for name in outputs)
    server = f'<span data-url="triton">"{text(address.partition("://")[2])}"</span>'
    return f"""{_imports(key, imports)}

row = {{
{rows}
}}
inputs = []
for name, (datatype, value) in row.items():
    dtype = triton_to_np_dtype(datatype)
    tensor = triton.InferInput(name, [1, 1], datatype)
    tensor.set_data_from_numpy(np.array([[value]], dtype))
    inputs.append(tensor)
with triton.InferenceServerClient({server}) as client:
    result = client.infer(
        "{text(dataset.name)}",
        inputs,{_headers(key, "        ")}
    )
{text(shown)}"""


def _imports(key: bool, others: str) -> str:
    return f"import os\n\n{others}" if key else others


def _headers(key: bool, indent: str) -> str:
    told = 'headers={"Authorization": f"Bearer {os.environ[\'API_KEY\']}"},'
    return f"\n{indent}{text(told)}" if key else ""


def _base(address: str) -> str:
    return f'<span data-url="base">{text(address)}</span>'


def _value(number: int, feature: Feature, form: str) -> str:
    return f'<span data-feature="{number}" data-form="{form}">{text(_literal(feature.example, form))}</span>'


def _literal(value: Value, form: str) -> str:
    """The value of an example, as the script of the page would write it."""
    if form == "text" and isinstance(value, bool):
        return json.dumps(str(value).lower())
    if form in ("python", "number") and isinstance(value, bool):
        return str(value)
    written = json.dumps(value, ensure_ascii=False)
    return _in_shell(written) if form == "shell" else written


def _in_shell(written: str) -> str:
    """JSON between the single quotes of a shell."""
    return written.replace("'", "'\\''")
