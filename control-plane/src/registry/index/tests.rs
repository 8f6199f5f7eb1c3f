use prost::Message as _;
use weft_core::identity::spiffe::TrustDomain;

use super::super::instance;
use super::*;

const DEFAULT: &str = "svc";

fn index() -> Index {
    let virtual_range: IpNet = "240.240.0.0/16".parse().unwrap();
    let settings = Settings {
        trust_domain: TrustDomain::new("cluster.local").unwrap(),
        virtual_ranges: vec![virtual_range],
        ranges: vec![virtual_range, "10.0.0.0/8".parse().unwrap()],
        outbound_mode: OutboundMode::Passthrough,
    };
    Index::new(settings, 1)
}

fn key(name: &str) -> ServiceKey {
    ServiceKey { namespace: "shop".into(), name: name.into() }
}

fn port(number: u32, target: Target) -> Port {
    Port { service: weft_proto::v1::ServicePort { port: number, ..Default::default() }, target }
}

fn spec(ports: Vec<Port>, backing: Backing) -> ServiceSpec {
    ServiceSpec { ports, backing, accounts: None, address: crate::resource::service::Address::Virtual }
}

fn selecting(app: &str) -> Backing {
    Backing::Selector([("app".to_owned(), app.to_owned())].into())
}

fn instance(id: &str, addresses: &[&str], ports: &[(u16, &str)]) -> Instance {
    let ports = ports.iter().map(|(port, name)| instance::Port {
        port: *port,
        name: (*name).to_owned(),
        app_protocol: String::new(),
        captured: true,
    });
    Instance {
        namespace: "shop".to_owned(),
        id: id.to_owned(),
        service_account: "cart".to_owned(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        ports: ports.collect(),
        labels: [("app".to_owned(), "cart".to_owned())].into(),
        locality: String::new(),
        ready: true,
    }
}

/// `id address port>target…` of each endpoint, in order.
fn endpoints(index: &Index, name: &str) -> Vec<String> {
    let key = key(name);
    let resources = index.service_resources(&key).filter_map(|encoded| {
        match Resource::decode(encoded.bytes().as_ref()).unwrap().body {
            Some(resource::Body::Endpoint(endpoint)) => Some(endpoint),
            _ => None,
        }
    });
    let shown = resources.map(|endpoint| {
        let ports = endpoint.ports.iter().map(|port| format!("{}>{}", port.service_port, port.target_port));
        format!("{} {} {}", endpoint.id, endpoint.address, ports.collect::<Vec<_>>().join(","))
    });
    shown.collect()
}

/// `found service endpoint` or the verdict.
fn resolved(index: &Index, address: &str) -> String {
    let (answer, _) = index.resolve(address.parse().unwrap());
    let Some(resource::Body::Resolution(answer)) = answer.body else { panic!("an answer") };
    if answer.verdict() == resolution::Verdict::Found {
        return format!("{} {} {}", answer.service, answer.service_port, answer.endpoint_id);
    }
    format!("{:?}", answer.verdict())
}

#[test]
fn a_named_target_is_found_at_each_instance() {
    let mut index = index();
    index.put_instance(instance("a", &["10.0.0.1"], &[(8080, "web"), (9090, "admin")]), 2);
    index.put_instance(instance("b", &["10.0.0.2"], &[(8081, "web")]), 3);
    index.put_instance(instance("c", &["10.0.0.3"], &[(9090, "admin")]), 4);
    let ports = vec![port(80, Target::Name("web".to_owned())), port(90, Target::Number(9090))];
    index.put_service(&key(DEFAULT), spec(ports, selecting("cart")), vec![], 5);
    assert_eq!(endpoints(&index, DEFAULT), ["a 10.0.0.1 80>8080,90>9090", "b 10.0.0.2 80>8081", "c 10.0.0.3 90>9090"]);
    assert_eq!(resolved(&index, "10.0.0.2:8081"), "svc 80 b");
    assert_eq!(resolved(&index, "10.0.0.2:8080"), "Denied", "a port that serves nothing");
}

#[test]
fn each_of_two_addresses_is_an_endpoint() {
    let mut index = index();
    index.put_service(&key(DEFAULT), spec(vec![port(80, Target::Number(80))], selecting("cart")), vec![], 2);
    index.put_instance(instance("a", &["10.0.0.1", "fd00::1"], &[(80, "")]), 3);
    assert_eq!(endpoints(&index, DEFAULT), ["a.v4 10.0.0.1 80>80", "a.v6 fd00::1 80>80"]);
    assert_eq!(resolved(&index, "[fd00::1]:80"), "svc 80 a.v6");
    index.put_instance(instance("a", &["10.0.0.1"], &[(80, "")]), 4);
    assert_eq!(endpoints(&index, DEFAULT), ["a 10.0.0.1 80>80"]);
    assert_eq!(resolved(&index, "[fd00::1]:80"), "Unknown", "nothing stays of an address that was given up");
    index.remove_instance(&("shop".to_owned(), "a".to_owned()), 5);
    assert_eq!(endpoints(&index, DEFAULT), [""; 0]);
    assert_eq!(resolved(&index, "10.0.0.1:80"), "Denied", "an address of the mesh that nobody has");
}

#[test]
fn fixed_addresses_and_names_serve_without_instances() {
    let mut index = index();
    let backing = Backing::Static(vec!["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()]);
    index.put_service(&key(DEFAULT), spec(vec![port(5432, Target::Number(15432))], backing), vec![], 2);
    assert_eq!(endpoints(&index, DEFAULT), ["192.0.2.1 192.0.2.1 5432>15432", "192.0.2.2 192.0.2.2 5432>15432"]);
    let named = |name: &str| spec(vec![port(443, Target::Number(443))], Backing::Dns(name.to_owned()));
    index.put_service(&key("dns"), named("db.example"), vec![], 3);
    assert_eq!(endpoints(&index, "dns"), [""; 0]);
    index.put_resolved(&key("dns"), "db.example".to_owned(), vec!["192.0.2.9".parse().unwrap()]);
    assert_eq!(endpoints(&index, "dns"), ["192.0.2.9 192.0.2.9 443>443"]);
    index.put_service(&key("dns"), named("other.example"), vec![], 4);
    assert_eq!(endpoints(&index, "dns"), [""; 0], "the answer was for another name");
}

#[test]
fn a_virtual_address_follows_its_service_and_no_other() {
    let mut index = index();
    let plain = || spec(vec![port(80, Target::Number(80))], selecting("cart"));
    let (one, two): (IpAddr, IpAddr) = ("240.240.0.1".parse().unwrap(), "240.240.0.2".parse().unwrap());
    index.put_service(&key("a"), plain(), vec![one], 2);
    assert_eq!(resolved(&index, "240.240.0.1:80"), "a 80 ");
    assert_eq!(resolved(&index, "240.240.0.1:81"), "Denied", "no such port");
    index.put_service(&key("a"), plain(), vec![two], 3);
    assert_eq!(resolved(&index, "240.240.0.1:80"), "Denied", "given up");
    assert_eq!(resolved(&index, "240.240.0.2:80"), "a 80 ");
    index.put_service(&key("b"), plain(), vec![two], 4);
    assert_eq!(resolved(&index, "240.240.0.2:80"), "a 80 ", "who has it keeps it");
    index.remove_service(&key("b"), 5);
    assert_eq!(resolved(&index, "240.240.0.2:80"), "a 80 ");
    index.remove_service(&key("a"), 6);
    assert_eq!(resolved(&index, "240.240.0.2:80"), "Denied");
}

#[test]
fn a_service_may_name_who_serves_it() {
    let mut index = index();
    index.put_instance(instance("a", &["10.0.0.1"], &[(80, "")]), 2);
    index.put_instance(Instance { service_account: "evil".to_owned(), ..instance("b", &["10.0.0.2"], &[(80, "")]) }, 3);
    let mut spec = spec(vec![port(80, Target::Number(80))], selecting("cart"));
    index.put_service(&key(DEFAULT), spec.clone(), vec![], 4);
    assert_eq!(endpoints(&index, DEFAULT).len(), 2, "labels are a workload's own word");
    spec.accounts = Some(["cart".to_owned()].into());
    index.put_service(&key(DEFAULT), spec, vec![], 5);
    assert_eq!(endpoints(&index, DEFAULT), ["a 10.0.0.1 80>80"]);
    assert_eq!(resolved(&index, "10.0.0.2:80"), "Denied");
}
