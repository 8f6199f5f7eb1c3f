use super::*;

fn stored(spec: &str, endpoints: Option<&str>) -> Stored {
    let annotations = endpoints.map(|text| (STATIC_ENDPOINTS.to_owned(), text.to_owned()));
    let spec = serde_json::from_str(spec).unwrap();
    Stored { spec, annotations: annotations.into_iter().collect(), ..Stored::default() }
}

fn service(spec: &str, endpoints: Option<&str>) -> Result<ServiceSpec, Problems> {
    read(&stored(spec, endpoints))
}

/// Every row: a spec, the annotation, and parts of the problems, one for each, in order.
#[test]
fn every_problem_is_named() {
    let static_field = "metadata.annotations[weft.dev/static-endpoints]";
    let check = |spec: &str, endpoints: Option<&str>, expected: &[(&str, &str)]| {
        let problems = service(spec, endpoints).unwrap_err();
        let found: Vec<(&str, &str)> = problems.0.iter().map(|p| (p.field.as_str(), p.reason.as_str())).collect();
        assert_eq!(found.len(), expected.len(), "{spec}: {problems}");
        for ((field, reason), (expected_field, part)) in found.iter().zip(expected) {
            assert_eq!(field, expected_field, "{spec}: {problems}");
            assert!(reason.contains(part), "{spec}: {reason} lacks {part}");
        }
    };
    check("{}", None, &[("spec.ports", "must hold 1 to 64 ports, but holds 0")]);
    check("[]", None, &[("spec", "must be an object")]);
    check(r#"{"ports":"x"}"#, None, &[("spec.ports", "must be a list, but is a text")]);
    check(r#"{"ports":[7]}"#, None, &[("spec.ports[0]", "must be an object, but is 7")]);
    check(r#"{"ports":[{}]}"#, None, &[("spec.ports[0].port", "is missing")]);
    check(r#"{"ports":[{"port":"80"}]}"#, None, &[("spec.ports[0].port", "must be a number")]);
    check(r#"{"ports":[{"port":80,"name":7}]}"#, None, &[("spec.ports[0].name", "must be a text, but is 7")]);
    check(r#"{"ports":[{"port":80,"targetPort":true}]}"#, None, &[("spec.ports[0].targetPort", "true is neither")]);
    check(r#"{"ports":[{"port":80,"targetPort":0}]}"#, None, &[("spec.ports[0].targetPort", "0 is neither")]);
    check(
        r#"{"ports":[{"port":0,"zzz":1},{"port":80,"name":"a"},{"port":80,"name":"a"}]}"#,
        None,
        &[
            ("spec.ports[0].port", "0 is no port"),
            ("spec.ports[0].zzz", "remove it"),
            ("spec.ports[2].port", "twice"),
            ("spec.ports[2].name", "twice"),
        ],
    );
    // All kinds of mistakes in one answer, those of shape included.
    check(
        r#"{"ports":[{"port":80,"protocol":"UDP","appProtocol":"ftp"}],"bogus":1,"clusterIP":"x","type":"Odd","selector":{"a":1}}"#,
        None,
        &[
            ("spec.selector.a", "must be a text, but is 1"),
            ("spec.type", "is unknown; write ClusterIP"),
            ("spec.ports[0].protocol", "only TCP"),
            ("spec.ports[0].appProtocol", "leave it out"),
            ("spec.clusterIP", "neither an IP address nor None"),
            ("spec.bogus", "is no field of a Service"),
        ],
    );
    let port = r#"{"ports":[{"port":80}]}"#;
    check(port, Some("1.2.3.4,x"), &[(static_field, "\"x\" is no IP address")]);
    check(port, Some("1.2.3.4:80"), &[(static_field, "ports belong into spec.ports")]);
    check(port, Some(""), &[(static_field, "empty entry")]);
    check(port, Some("1.2.3.4,"), &[(static_field, "empty entry")]);
    check(port, Some("1.2.3.4,::ffff:1.2.3.4"), &[(static_field, "::ffff:1.2.3.4 is there twice")]);
    for address in [
        "127.0.0.1",
        "127.9.9.9",
        "::1",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "::ffff:127.0.0.1",
    ] {
        check(port, Some(address), &[(static_field, "give the address that serves it")]);
    }
    let named = r#"{"ports":[{"port":80,"targetPort":"http"}]}"#;
    check(named, Some("1.2.3.4"), &[("spec.ports[0].targetPort", "give its number")]);
    check(r#"{"ports":[{"port":80}],"selector":{"a":"b"}}"#, Some("1.2.3.4"), &[("spec.selector", "keep one")]);
    check(
        r#"{"ports":[{"port":80,"targetPort":"http"}],"type":"ExternalName","selector":{"a":"b"}}"#,
        Some("1.2.3.4"),
        &[
            ("spec.selector", "keep one"),
            (static_field, "keep one"),
            ("spec.externalName", "is no DNS name"),
            ("spec.ports[0].targetPort", "give its number"),
        ],
    );
    for address in ["192.0.2.1", "192.0.2.1."] {
        let spec = format!(r#"{{"ports":[{{"port":80}}],"type":"ExternalName","externalName":"{address}"}}"#);
        check(&spec, None, &[("spec.externalName", "is an address; list it in the annotation")]);
    }
    check(
        r#"{"ports":[{"port":80}],"externalName":"db.example"}"#,
        None,
        &[("spec.externalName", "needs type: ExternalName")],
    );
}

#[test]
fn what_was_accepted_once_is_still_understood() {
    let named = r#"{"ports":[{"port":80,"targetPort":"http"}],"later":1}"#;
    let spec = understand(&stored(named, Some("127.0.0.1,127.0.0.1"))).unwrap();
    assert_eq!(spec.backing, Backing::Static(vec!["127.0.0.1".parse().unwrap(); 2]));
    assert_eq!(spec.ports[0].target, Target::Name("http".to_owned()));
    assert!(understand(&stored(r#"{"ports":"x"}"#, None)).is_err());
    assert!(understand(&Stored::default()).is_err());
}

#[test]
fn many_and_long_problems_make_a_short_answer() {
    let endless = vec!["ä".repeat(5000); 500].join(",");
    let problems = service(r#"{"ports":[{"port":80}]}"#, Some(&endless)).unwrap_err();
    assert_eq!(problems.0.len(), 500);
    let text = problems.to_string();
    assert!(text.len() < 12_000 && text.ends_with("; and 484 more"), "{} bytes", text.len());
}

#[test]
fn the_three_ways_and_kubernetes_fields() {
    let spec = r#"{"selector":{"app":"web"},"ports":[{"port":80,"targetPort":"http","appProtocol":"http","protocol":"TCP",
        "nodePort":30080,"name":null}],"type":"ClusterIP","sessionAffinity":"None","clusterIP":"None","clusterIPs":["None"]}"#;
    let read = service(spec, None).unwrap();
    assert_eq!(read.backing, Backing::Selector([("app".to_owned(), "web".to_owned())].into()));
    assert_eq!((read.ports[0].target.clone(), read.address), (Target::Name("http".to_owned()), Address::Headless));
    let read = service(r#"{"ports":[{"port":80}]}"#, Some("1.2.3.4, 2001:db8::1")).unwrap();
    assert_eq!(read.backing, Backing::Static(vec!["1.2.3.4".parse().unwrap(), "2001:db8::1".parse().unwrap()]));
    let read = service(r#"{"ports":[{"port":80}],"type":"ExternalName","externalName":"db.example."}"#, None);
    assert_eq!(read.unwrap().backing, Backing::Dns("db.example.".to_owned()));
}

#[test]
fn accounts_go_with_a_selector_and_are_named_with_the_rest() {
    let applied = |spec: &str, accounts: &str, endpoints: Option<&str>| {
        let mut stored = stored(spec, endpoints);
        stored.annotations.insert(SERVICE_ACCOUNTS.to_owned(), accounts.to_owned());
        read(&stored)
    };
    let spec = applied(r#"{"ports":[{"port":80}],"selector":{"a":"b"}}"#, "web, api", None).unwrap();
    assert_eq!(spec.accounts, Some(["api".to_owned(), "web".to_owned()].into()));
    let text = applied(r#"{"ports":[{"port":0}]}"#, "Web", Some("192.0.2.1")).unwrap_err().to_string();
    for part in ["selector only", "\"Web\" is no name", "spec.ports[0].port"] {
        assert!(text.contains(part), "{text} lacks {part}");
    }
}
