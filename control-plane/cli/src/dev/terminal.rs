//! Shows the logs of all applications on the terminal, each line with its owner before it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Between two looks at the files.
const PERIOD: Duration = Duration::from_millis(150);
/// Bytes read from one file per look; what is written faster waits for the next.
const CHUNK_MAX: u64 = 64 << 10;

/// Prints what is appended to the logs in `directory`, for ever. Cancelling loses nothing that is not in the files.
pub async fn follow(directory: &Path) {
    let mut read: BTreeMap<PathBuf, u64> = BTreeMap::new();
    loop {
        for entry in std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok) {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "log") {
                // Access records are for programs.
                continue;
            }
            let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            let position = read.entry(path.clone()).or_default();
            // A file that cannot be read now is tried again with the next look.
            let text = appended(&path, position).unwrap_or_default();
            for line in text.lines() {
                println!("{name:<20} | {line}");
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// Whole lines from `position` on, which moves behind them.
fn appended(path: &Path, position: &mut u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(*position))?;
    let mut bytes = Vec::new();
    file.take(CHUNK_MAX).read_to_end(&mut bytes)?;
    let full = u64::try_from(bytes.len()).unwrap_or(0) == CHUNK_MAX;
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    // A line longer than a chunk is shown in pieces.
    let whole = if whole == 0 && full { bytes.len() } else { whole };
    bytes.truncate(whole);
    *position += u64::try_from(whole).unwrap_or(0);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_shown_once_and_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.log");
        let mut position = 0;
        std::fs::write(&path, "one\ntw").unwrap();
        assert_eq!(appended(&path, &mut position).unwrap(), "one\n");
        assert_eq!(appended(&path, &mut position).unwrap(), "");
        std::fs::write(&path, "one\ntwo\n").unwrap();
        assert_eq!(appended(&path, &mut position).unwrap(), "two\n");
    }
}
