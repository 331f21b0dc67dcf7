"""Promotion by hand: a person decides which registered version is served.

``python -m training.promote iris 8`` makes version 8 the champion and deploys it; ``iris --rollback`` goes back to the
version before; ``--follow`` heeds what was decided elsewhere: the alias ``champion`` was moved in MLflow, or a service
was rolled back over HTTP. Running services that follow ``models/`` reload by themselves.

What a person has chosen is on record in the registry, and the gate lets only a model that is trained later replace it.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from contract import DATASETS
from contract.dataset import Dataset
from model.card import ContractMismatch
from model.deployed import Deployment
from model.session import Artifact, ArtifactError
from training import console, files, tracking
from training.errors import PipelineError
from training.import_models import CHAMPIONS_FILE, MODELS, find_champion, import_models
from training.tracking import RegisteredModel


def promote(dataset: Dataset, version: str) -> None:
    """Make a registered version the champion, and deploy it.

    Args:
        dataset: whose model.
        version: MLflow's number, or the version that the service shows.

    Raises:
        PipelineError: there is no such version, or it cannot be served; nothing is changed then.
    """
    champions = _champions()
    chosen = _checked(dataset, _find(dataset.name, version))
    former = tracking.champion(dataset.name)
    if former is not None and former.version == chosen.version and champions[dataset.name] == chosen.content_version:
        console.log.info("%s: %s is the champion already", dataset.name, _described(chosen))
        return
    tracking.promote(chosen)
    tracking.mark_chosen(chosen, f"A person made it the champion{_instead_of(former)}.")
    _deploy({**champions, dataset.name: chosen.content_version})
    console.log.info(
        "%s: %s is the champion%s. Services that follow %s reload it; `make rollback MODEL=%s` goes back.",
        *(dataset.name, _described(chosen), _instead_of(former), MODELS, dataset.name),
    )


def roll_back(dataset: Dataset) -> None:
    """Make the version before the champion again, and deploy it.

    Raises:
        PipelineError: there is none, it is the champion already, or it cannot be served; nothing is changed then.
    """
    name, champions = dataset.name, _champions()
    former, previous = tracking.champion(name), tracking.by_alias(name, tracking.PREVIOUS)
    if former is None or previous is None:
        raise PipelineError(
            f"There is nothing to roll {name} back to: the registry has no version with the alias "
            f"{tracking.PREVIOUS!r}. `make promote MODEL={name} VERSION=…` deploys any version."
        )
    if former.version == previous.version:
        raise PipelineError(
            f"{name} is rolled back to {_described(former)} already, and what was before it is not known. "
            f"`make promote MODEL={name} VERSION=…` deploys any version."
        )
    previous = _checked(dataset, previous)
    # `previous` stays where it is: that both aliases are at one version says that it was rolled back.
    tracking.set_alias(previous, tracking.CHAMPION)
    tracking.mark_chosen(previous, f"A person rolled back to it{_instead_of(former)}.")
    _deploy({**champions, name: previous.content_version}, going_back=name)
    console.log.info(
        "%s: rolled back to %s%s. Services that follow %s reload it.",
        *(name, _described(previous), _instead_of(former), MODELS),
    )


def follow() -> None:
    """Heed what a person decided elsewhere, so that the pipeline deploys it.

    A moved alias, or a rollback over HTTP, is noted in ``reports/champions.json``, which is older than both. Of the two
    the alias counts. Then ``dvc repro`` does the rest: it evaluates and imports that version. If an experiment was
    applied whose model is better than the champion, the aliases are moved to that model.
    """
    if not CHAMPIONS_FILE.exists():
        return
    champions = dict(_champions())
    for dataset in DATASETS.values():
        name, known = dataset.name, champions.get(dataset.name)
        registered = tracking.champion(name)
        if known is None or registered is None:
            continue
        chosen = _known_by_content(dataset, registered)
        if chosen is None:
            continue  # It cannot be read: the gate says so.
        if (applied := _applied(name, known, chosen)) is not None:
            console.log.info("%s: %s of an experiment that was applied is champion", name, _described(applied))
            tracking.promote(applied)
            continue
        if chosen.content_version != known:
            console.log.info("%s: the alias %s was moved to %s", name, tracking.CHAMPION, _described(chosen))
            if former := tracking.with_content(name, known):
                tracking.set_alias(former[0], tracking.PREVIOUS)
            tracking.mark_chosen(chosen, f"A person moved the alias {tracking.CHAMPION!r} to it.")
        elif (served := _rolled_back(name, known)) is not None:
            console.log.info("%s: the service was rolled back to %s", name, _described(served))
            for alias in (tracking.PREVIOUS, tracking.CHAMPION):
                tracking.set_alias(served, alias)
            tracking.mark_chosen(served, "A person rolled the service back to it.")
            chosen = served
        else:
            continue
        champions = {**champions, name: chosen.content_version}
        files.write_json(CHAMPIONS_FILE, champions)


def _applied(name: str, known: str, champion: RegisteredModel) -> RegisteredModel | None:
    """The version of ``reports/champions.json``, if it won against this champion in an experiment that was applied."""
    if known == champion.content_version:
        return None
    found = tracking.with_content(name, known)
    return next((one for one in found if one.tags.get(tracking.WOULD_REPLACE) == champion.version), None)


def _rolled_back(name: str, champion: str) -> RegisteredModel | None:
    """The version that a service went back to over HTTP from this champion; None if there was no such rollback."""
    deployment = Deployment(MODELS)
    previous = deployment.previous().get(name)
    if previous is None or previous.left != f"{name}:{champion}" or deployment.tags().get(name) != previous.tag:
        return None
    found = tracking.with_content(name, previous.tag.partition(":")[2])
    if not found:
        raise PipelineError(
            f"The service was rolled back to {previous.tag}, which the registry does not have. "
            f"`make promote MODEL={name} VERSION=…` deploys one that it has."
        )
    return found[0]


def _find(name: str, version: str) -> RegisteredModel:
    found = tracking.with_content(name, version)
    return found[0] if found else tracking.get(name, version)


def _known_by_content(dataset: Dataset, registered: RegisteredModel) -> RegisteredModel | None:
    """The same version with the tag of its content, which one that was registered by hand lacks; None if unreadable."""
    if tracking.CONTENT_VERSION in registered.tags:
        return registered
    try:
        with tempfile.TemporaryDirectory() as directory:
            artifact = Artifact.read(tracking.download(registered, Path(directory) / dataset.name))
    except (PipelineError, ArtifactError):
        return None
    return tracking.tag_content(registered, artifact.card.content_version)


def _checked(dataset: Dataset, registered: RegisteredModel) -> RegisteredModel:
    """A version that can be served, with the tag of its content.

    Raises:
        PipelineError: why it cannot be.
    """
    with console.step(f"{dataset.name}: check {_described(registered)}"), tempfile.TemporaryDirectory() as directory:
        try:
            artifact = Artifact.verified(tracking.download(registered, Path(directory) / dataset.name), dataset)
        except (ArtifactError, ContractMismatch) as error:
            raise PipelineError(f"{_described(registered)} of {dataset.name} cannot be served: {error}") from error
    return tracking.tag_content(registered, artifact.card.content_version)


def _deploy(champions: Mapping[str, str], *, going_back: str | None = None) -> None:
    """Export and import the champions, and name them in ``deployed.json``."""
    found = {dataset.name: find_champion(dataset, champions) for dataset in DATASETS.values()}
    import_models(found, MODELS, going_back=going_back)
    # The pipeline sees that it has changed, and brings its reports into line with the next `make train`.
    files.write_json(CHAMPIONS_FILE, champions)


def _champions() -> Mapping[str, str]:
    """What the pipeline has deployed, by name.

    Raises:
        PipelineError: it has not run yet.
    """
    try:
        champions: dict[str, str] = json.loads(CHAMPIONS_FILE.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PipelineError(f"{CHAMPIONS_FILE} is missing: run `make train` first.") from None
    return champions


def _described(model: RegisteredModel) -> str:
    known = "" if model.content_version == model.version else f" ({model.content_version})"
    return f"version {model.version}{known}"


def _instead_of(former: RegisteredModel | None) -> str:
    return f" instead of {_described(former)}" if former is not None else ""


def main(arguments: list[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.promote", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("model", nargs="?", choices=list(DATASETS), help="whose version")
    parser.add_argument("version", nargs="?", help="MLflow's number, or sha-… as the service shows it")
    parser.add_argument("--rollback", action="store_true", help="go back to the version before")
    parser.add_argument("--follow", action="store_true", help="heed a moved alias, or a rollback over HTTP")
    given = parser.parse_args(arguments)
    if given.follow and not (given.model or given.version or given.rollback):
        return console.run(follow)
    if given.follow or not given.model or bool(given.version) == given.rollback:
        parser.error("give a model and a version, a model and --rollback, or --follow alone")
    dataset = DATASETS[given.model]
    return console.run(partial(roll_back, dataset) if given.rollback else partial(promote, dataset, given.version))


if __name__ == "__main__":
    sys.exit(main())
