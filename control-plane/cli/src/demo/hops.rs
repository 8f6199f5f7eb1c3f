//! What both sides of a hop say about it, and whether they agree. Pure: records in, findings out.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The fields of an access record that the demo looks at. Absent ones are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Record {
    /// "request" or "connection".
    pub kind: Option<String>,
    /// "inbound", "outbound" or "gateway".
    pub direction: Option<String>,
    /// Name of the proxy's instance.
    pub instance_id: Option<String>,
    /// The same on all hops of one request.
    pub request_id: Option<String>,
    /// The same on all hops of one request.
    pub trace_id: Option<String>,
    /// Of this hop.
    pub span_id: Option<String>,
    /// Of the hop before.
    pub parent_span_id: Option<String>,
    /// "namespace/name".
    pub service: Option<String>,
    /// The endpoint that was chosen.
    pub endpoint: Option<String>,
    /// Of the request.
    pub path: Option<String>,
    /// Of the response.
    pub status: Option<u16>,
    /// Whom the proxy met.
    pub peer_id: Option<String>,
    /// Who the proxy is.
    pub own_id: Option<String>,
    /// "TLSv1.3".
    pub tls_version: Option<String>,
    /// "X25519MLKEM768".
    pub tls_group: Option<String>,
    /// "weft-h2/1", …
    pub alpn: Option<String>,
    /// How long it took.
    pub duration_us: Option<u64>,
    /// Why it failed.
    pub fault: Option<String>,
}

/// One hop as both proxies saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Hop {
    /// "gateway → blog".
    pub hop: String,
    /// SPIFFE ID of the client, as its own proxy says.
    pub client: String,
    /// SPIFFE ID of the server, as its own proxy says.
    pub server: String,
    /// Key exchange group, as both say.
    pub tls_group: String,
    /// TLS version, as both say.
    pub tls_version: String,
    /// ALPN, as both say.
    pub alpn: String,
    /// Everything on which they differ from each other or from what is promised; empty if all is well.
    pub problems: Vec<String>,
}

/// Compares the records of both sides.
///
/// `client` and `server` are the service accounts that must be proved (in namespace "default" of "cluster.local").
#[must_use]
pub fn compare(name: &str, accounts: (&str, &str), client: Option<&Record>, server: Option<&Record>) -> Hop {
    let mut hop = Hop { hop: name.to_owned(), ..Hop::default() };
    let (Some(client), Some(server)) = (client, server) else {
        for (side, record) in [("client", client), ("server", server)] {
            if record.is_none() {
                hop.problems.push(format!("the {side}'s proxy has no record of it"));
            }
        }
        return hop;
    };
    let id = |account: &str| format!("spiffe://cluster.local/ns/default/sa/{account}");
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let mut agree = |what: &str, one: &Option<String>, other: &Option<String>, expected: Option<&str>| {
        if one != other {
            hop.problems.push(format!(
                "{what}: the client's proxy says {:?}, the server's {:?}",
                text(one),
                text(other)
            ));
        } else if expected.is_some_and(|expected| one.as_deref() != Some(expected)) {
            hop.problems.push(format!("{what}: is {:?} instead of {:?}", text(one), expected.unwrap_or_default()));
        }
    };
    agree("client identity", &client.own_id, &server.peer_id, Some(&id(accounts.0)));
    agree("server identity", &client.peer_id, &server.own_id, Some(&id(accounts.1)));
    agree("TLS version", &client.tls_version, &server.tls_version, None);
    agree("TLS group", &client.tls_group, &server.tls_group, Some("X25519MLKEM768"));
    agree("ALPN", &client.alpn, &server.alpn, None);
    hop.client = text(&client.own_id);
    hop.server = text(&server.own_id);
    hop.tls_group = text(&client.tls_group);
    hop.tls_version = text(&client.tls_version);
    hop.alpn = text(&client.alpn);
    hop
}

/// Records of a file that `wanted` accepts, in its order. Lines that are not records (one is being written) are passed
/// over; a file that is not there has none.
#[must_use]
pub fn read(path: &Path, wanted: impl Fn(&Record) -> bool) -> Vec<Record> {
    let Ok(file) = File::open(path) else { return Vec::new() };
    let lines = BufReader::new(file).lines().map_while(Result::ok);
    lines.filter_map(|line| serde_json::from_str(&line).ok()).filter(|record| wanted(record)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(own: &str, peer: &str) -> Record {
        let id = |account: &str| Some(format!("spiffe://cluster.local/ns/default/sa/{account}"));
        Record {
            own_id: id(own),
            peer_id: id(peer),
            tls_group: Some("X25519MLKEM768".to_owned()),
            tls_version: Some("TLSv1.3".to_owned()),
            alpn: Some("weft-h2/1".to_owned()),
            ..Record::default()
        }
    }

    #[test]
    fn disagreement_and_wrong_values_are_found() {
        let check = |client: Record, server: Record, expected: Option<&str>| {
            let hop = compare("a → b", ("a", "b"), Some(&client), Some(&server));
            match expected {
                None => assert_eq!(hop.problems, Vec::<String>::new()),
                Some(expected) => assert!(hop.problems.iter().any(|problem| problem.starts_with(expected)), "{hop:?}"),
            }
        };
        check(record("a", "b"), record("b", "a"), None);
        check(record("a", "c"), record("b", "a"), Some("server identity: the client's"));
        check(record("x", "b"), record("b", "x"), Some("client identity: is"));
        let weak = |mut record: Record| {
            record.tls_group = Some("X25519".to_owned());
            record
        };
        check(weak(record("a", "b")), record("b", "a"), Some("TLS group: the client's"));
        check(weak(record("a", "b")), weak(record("b", "a")), Some("TLS group: is"));
        check(Record::default(), Record::default(), Some("client identity: is"));
        assert_eq!(compare("a → b", ("a", "b"), None, Some(&record("b", "a"))).problems.len(), 1);
    }

    #[test]
    fn halves_of_lines_are_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        std::fs::write(&path, "{\"request_id\":\"a\",\"status\":200,\"other\":{}}\n{\"request_id\":\"b\"}\n{\"requ")
            .unwrap();
        let all = read(&path, |_| true);
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].status, Some(200));
        assert_eq!(read(&path, |record| record.request_id.as_deref() == Some("b")).len(), 1);
    }
}
