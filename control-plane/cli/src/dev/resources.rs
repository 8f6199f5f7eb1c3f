//! From the file to the resources that the control plane is given.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use weft_proto::v1::UserResource;

use super::file::{App, DevFile};

/// The Services of the file, one per (namespace, name). Applications that share one are told apart by no label: the
/// service selects by its own.
#[must_use]
pub fn services(file: &DevFile) -> Vec<UserResource> {
    let mut found: BTreeMap<(&str, &str), &App> = BTreeMap::new();
    for app in sidecar_apps(file) {
        if let Some(name) = app.service_name() {
            found.entry((&app.namespace, name)).or_insert(app);
        }
    }
    found.into_iter().map(|((namespace, name), app)| service(namespace, name, app)).collect()
}

/// How many endpoints each service will have once everything is ready.
#[must_use]
pub fn expected_endpoints(file: &DevFile) -> BTreeMap<(String, String), u32> {
    let mut expected = BTreeMap::new();
    for app in sidecar_apps(file) {
        if let Some(name) = app.service_name() {
            *expected.entry((app.namespace.clone(), name.to_owned())).or_insert(0) += app.replicas;
        }
    }
    expected
}

/// Key and value of the label by which the service finds the application's instances.
#[must_use]
pub fn service_label(app: &App) -> Option<(&'static str, &str)> {
    Some(("service", app.service_name()?))
}

fn sidecar_apps(file: &DevFile) -> impl Iterator<Item = &App> {
    file.apps.iter().filter(|app| app.sidecar)
}

fn service(namespace: &str, name: &str, app: &App) -> UserResource {
    let ports: Vec<Value> = app
        .ports
        .iter()
        .map(|port| {
            let number = port.of_service();
            let mut entry = json!({"name": format!("p{number}"), "port": number, "targetPort": port.port});
            if let Some(fields) = entry.as_object_mut()
                && !port.protocol.is_empty()
            {
                fields.insert("appProtocol".to_owned(), json!(port.protocol));
            }
            entry
        })
        .collect();
    let spec = json!({"selector": {"service": name}, "ports": ports});
    UserResource {
        api_version: "v1".to_owned(),
        kind: "Service".to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        spec_json: spec.to_string(),
        ..UserResource::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_selects_its_applications() {
        let yaml = "apps:
- {name: a, command: [x], ports: [{port: 8080, protocol: http, servicePort: 80}], replicas: 2, service: web}
- {name: b, command: [x], ports: [{port: 8080, protocol: http, servicePort: 80}], service: web}
- {name: c, command: [x]}
- {name: d, command: [x], ports: [{port: 1}], sidecar: false}";
        let file = DevFile::parse(yaml).unwrap();
        let services = services(&file);
        assert_eq!(services.len(), 1);
        let spec: Value = serde_json::from_str(&services[0].spec_json).unwrap();
        assert_eq!(spec["ports"][0], json!({"name": "p80", "port": 80, "targetPort": 8080, "appProtocol": "http"}));
        assert_eq!(spec["selector"], json!({"service": "web"}));
        assert_eq!(expected_endpoints(&file), BTreeMap::from([(("default".to_owned(), "web".to_owned()), 3)]));
    }
}
