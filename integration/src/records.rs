//! Access records in their file.

use std::path::Path;

use anyhow::Context as _;
use serde_json::Value;

/// All records, oldest first; none where there is no file yet.
///
/// # Errors
/// A whole line is not JSON.
pub fn read(path: &Path) -> anyhow::Result<Vec<Value>> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        read => read.with_context(|| format!("cannot read {}", path.display()))?,
    };
    // The last line may be half written.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let record = |line: &str| serde_json::from_str(line).with_context(|| format!("{}: {line}", path.display()));
    whole.lines().map(record).collect()
}
