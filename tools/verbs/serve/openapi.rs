//! The OpenAPI document, made of the table of parameters.

use serde_json::{Map, Value as Json, json};

use super::parameters::{CHATS, COMPLETIONS, DETOKENIZE, SCORE, Shape, TOKENIZE};

/// The document of this version; `keys` is whether requests need one.
pub fn document(keys: bool) -> Json {
    // Long because it is a list: what answers have, and the paths with it.
    let usage = json!({"type": "object", "required": ["prompt_tokens", "completion_tokens", "total_tokens"]});
    let answers = |object: &str| {
        object_schema(&[
            ("id", json!({"type": "string"})),
            ("object", json!({"const": object})),
            ("created", json!({"type": "integer"})),
            ("model", json!({"type": "string"})),
            (
                "choices",
                json!({"type": "array", "items": {"type": "object", "required": ["index", "finish_reason", "seed", "tokens"]}}),
            ),
            ("usage", usage.clone()),
        ])
    };
    let ids = json!({"type": "array", "items": {"type": "integer"}});
    let texts = json!({"type": "array", "items": {"type": "string"}});
    let status = object_schema(&[("status", json!({"type": "string"}))]);
    let model = object_schema(&[("id", json!({"type": "string"})), ("object", json!({"const": "model"}))]);
    let models = object_schema(&[
        ("data", json!({"type": "array", "items": model})),
        ("object", json!({"const": "list"})),
    ]);
    let tokens =
        object_schema(&[("tokens", ids.clone()), ("pieces", texts), ("count", json!({"type": "integer"}))]);
    let score = object_schema(&[
        ("logprob", json!({"type": "number"})),
        ("tokens", json!({"type": "integer"})),
        ("is_greedy", json!({"type": "boolean"})),
    ]);
    let scores = object_schema(&[
        ("prompt_tokens", json!({"type": "integer"})),
        ("scores", json!({"type": "array", "items": score})),
    ]);

    let mut paths = Map::new();
    let mut path = |name: &str, method: &str, operation: Json| {
        paths.insert(name.to_string(), json!({method: operation}));
    };
    path(
        "/v1/completions",
        "post",
        posted("Continue prompts", &COMPLETIONS, &answers("text_completion"), true),
    );
    path(
        "/v1/chat/completions",
        "post",
        posted("Answer in a conversation", &CHATS, &answers("chat.completion"), true),
    );
    path("/tokenize", "post", posted("Text to token ids", &TOKENIZE, &tokens, false));
    path(
        "/detokenize",
        "post",
        posted(
            "Token ids to text",
            &DETOKENIZE,
            &object_schema(&[("text", json!({"type": "string"}))]),
            false,
        ),
    );
    path("/score", "post", posted("Log-likelihoods of continuations", &SCORE, &scores, false));
    path("/v1/models", "get", got("The model", "application/json", &models));
    let mut one = got("One model", "application/json", &model);
    one["parameters"] =
        json!([{"name": "name", "in": "path", "required": true, "schema": {"type": "string"}}]);
    path("/v1/models/{name}", "get", one);
    path("/health", "get", got("Whether the process answers", "application/json", &status));
    let mut ready = got("Whether a request would find a place", "application/json", &status);
    ready["responses"]["503"] = content("application/json", "Not now", &status);
    path("/ready", "get", ready);
    path("/metrics", "get", got("Metrics for Prometheus", "text/plain", &json!({"type": "string"})));
    path("/openapi.json", "get", got("This document", "application/json", &json!({"type": "object"})));

    let error = object_schema(&[(
        "error",
        object_schema(&[
            ("message", json!({"type": "string"})),
            ("type", json!({"type": "string"})),
            ("param", json!({"type": ["string", "null"]})),
            ("code", json!({"type": ["string", "null"]})),
        ]),
    )]);
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {"title": "cinderblock", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "components": {
            "schemas": {"Error": error},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    });
    if keys {
        document["security"] = json!([{"key": []}]);
    }
    document
}

/// An object with these properties, all of which it has.
fn object_schema(properties: &[(&str, Json)]) -> Json {
    let names: Vec<&str> = properties.iter().map(|(name, _)| *name).collect();
    let map: Map<String, Json> =
        properties.iter().map(|(name, schema)| (name.to_string(), schema.clone())).collect();
    json!({"type": "object", "properties": map, "required": names})
}

fn content(kind: &str, about: &str, schema: &Json) -> Json {
    json!({"description": about, "content": {kind: {"schema": schema}}})
}

fn got(about: &str, kind: &str, schema: &Json) -> Json {
    let error = content("application/json", "What is wrong", &json!({"$ref": "#/components/schemas/Error"}));
    json!({"summary": about, "responses": {"200": content(kind, "The answer", schema), "4XX": error}})
}

fn posted(about: &str, shape: &Shape, schema: &Json, streams: bool) -> Json {
    let mut operation = got(about, "application/json", schema);
    operation["requestBody"] =
        json!({"required": true, "content": {"application/json": {"schema": shape.schema()}}});
    operation["responses"]["503"] = operation["responses"]["4XX"].clone();
    if streams {
        operation["responses"]["200"]["content"]["text/event-stream"] = json!({"schema": {}});
    }
    operation
}
