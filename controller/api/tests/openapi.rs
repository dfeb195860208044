//! The checked-in document is the rendered one.

use std::collections::BTreeSet;

use osmoda_controller_api::endpoint::endpoints;
use osmoda_controller_api::openapi;

#[test]
fn openapi_is_checked_in() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
    let rendered = openapi::text().unwrap();
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(path, &rendered).unwrap();
    }
    let stored = std::fs::read_to_string(path).unwrap_or_default();
    assert!(stored == rendered, "openapi.json differs; run the test with UPDATE_OPENAPI=1 and read the diff");
}

#[test]
fn operations_and_paths_are_unique() {
    let mut operations = BTreeSet::new();
    let mut routes = BTreeSet::new();
    for endpoint in endpoints() {
        assert!(operations.insert(endpoint.operation), "{} twice", endpoint.operation);
        assert!(routes.insert((endpoint.method, endpoint.path)), "{} twice", endpoint.path);
        assert!(endpoint.path.starts_with(osmoda_controller_api::BASE));
    }
}

#[test]
fn every_reference_resolves() {
    let text = openapi::text().unwrap();
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for part in text.split("#/components/schemas/").skip(1) {
        let name = part.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "no schema {name}");
    }
}
