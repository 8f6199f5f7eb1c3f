//! Conditions with deadlines, and findings in access records.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
pub use weft_cli::dev::ready::wait_for;

use crate::mesh::TestMesh;

/// How long a record may take to appear.
const RECORD_DEADLINE: Duration = Duration::from_secs(10);

/// Waits for a record of the proxy that has all these fields.
///
/// # Errors
/// None appears in time; says what there is.
pub async fn record(mesh: &TestMesh, proxy: &str, fields: &[(&str, Value)]) -> anyhow::Result<Value> {
    let matches = |record: &Value| fields.iter().all(|(name, value)| record.get(name) == Some(value));
    wait_for(&format!("a record of {proxy} with {fields:?}"), RECORD_DEADLINE, || async {
        let records = mesh.records(proxy).map_err(|error| format!("{error:#}"))?;
        let last = records.last().map(Value::to_string).unwrap_or_default();
        records.into_iter().rev().find(matches).ok_or_else(|| format!("the last record is {last}"))
    })
    .await
}

/// Text of a field of a record.
///
/// # Errors
/// The field is absent or no text.
pub fn text<'a>(record: &'a Value, field: &str) -> anyhow::Result<&'a str> {
    record.get(field).and_then(Value::as_str).with_context(|| format!("no {field} in {record}"))
}

/// Both proxies of a hop say the same of it: mutual TLS with X25519MLKEM768 between these two service accounts of
/// namespace "default".
///
/// # Errors
/// They do not.
pub fn same_hop(client: &Value, server: &Value, accounts: (&str, &str)) -> anyhow::Result<()> {
    let id = |account: &str| format!("spiffe://cluster.local/ns/default/sa/{account}");
    let expected = [
        ("own_id", client, id(accounts.0)),
        ("peer_id", client, id(accounts.1)),
        ("own_id", server, id(accounts.1)),
        ("peer_id", server, id(accounts.0)),
        ("tls_group", client, "X25519MLKEM768".to_owned()),
        ("tls_group", server, "X25519MLKEM768".to_owned()),
    ];
    for (field, record, value) in expected {
        let found = text(record, field)?;
        anyhow::ensure!(found == value, "{field} is {found:?} instead of {value:?} in {record}");
    }
    Ok(())
}
