// Shows the OpenAPI document; version and body follow the model that is chosen.
"use strict";

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const dress = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", dress);
dress();

function follow(system, [path, method], model) {
  const pathMethod = [path, method];
  const operation = system.specSelectors.specJson().getIn(["paths", path, method]);
  const version = operation.get("parameters").find((one) => one.get("name") === "model_version");
  if (version) {
    system.specActions.changeParamByIdentity(pathMethod, version, version.getIn(["x-versions", model]), false);
  }
  const body = operation.getIn(["requestBody", "content", "application/json", "examples", model, "value"]);
  if (body) {
    const member = { name: model, pathMethod, contextType: "requestBody", contextName: "requestBody" };
    system.oas3Actions.setActiveExamplesMember(member);
    system.oas3Actions.setRequestBodyValue({ value: JSON.stringify(body.toJS(), null, 2), pathMethod });
  }
  if (operation.hasIn(["responses", "200", "content", "application/json", "examples"])) {
    const member = { name: model, pathMethod, contextType: "responses", contextName: "200" };
    system.oas3Actions.setActiveExamplesMember(member);
  }
}

const followsModel = () => ({
  statePlugins: {
    spec: {
      wrapActions: {
        changeParamByIdentity: (original, system) => (pathMethod, parameter, value, isXml) => {
          original(pathMethod, parameter, value, isXml);
          if (parameter.get("name") === "model_name" && value) follow(system, pathMethod, value);
        },
      },
    },
  },
});

SwaggerUIBundle({
  url: "./openapi.json", dom_id: "#swagger-ui", deepLinking: true, tryItOutEnabled: true, plugins: [followsModel],
});
