//! The commands on a page: fenced blocks marked `sh` with the machine they are for.

use anyhow::Context as _;

/// A block of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// What follows `sh` at its fence: "one", "two", "both", "one see".
    pub(crate) mark: String,
    /// The commands.
    pub(crate) text: String,
}

/// All marked blocks in order. A fence may be indented, as in a list; the same indentation is taken off its lines.
pub(crate) fn blocks(page: &str) -> anyhow::Result<Vec<Block>> {
    let mut found = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some((before, mark)) = line.split_once("```sh ") else { continue };
        let indent = before.len();
        let mut text = String::new();
        loop {
            let line = lines.next().with_context(|| format!("the block {mark:?} has no end"))?;
            if line.trim_start() == "```" {
                break;
            }
            text.push_str(line.get(indent..).unwrap_or_else(|| line.trim_start()));
            text.push('\n');
        }
        found.push(Block { mark: mark.to_owned(), text });
    }
    Ok(found)
}

#[test]
fn blocks_are_found_and_unindented() {
    let page = "a\n```sh one\nx\n```\n```yaml\nno\n```\n10. ```sh two see\n    y\n      z\n    ```\n";
    let block = |mark: &str, text: &str| Block { mark: mark.to_owned(), text: text.to_owned() };
    assert_eq!(blocks(page).unwrap(), [block("one", "x\n"), block("two see", "y\n  z\n")]);
    assert!(blocks("```sh one\nx").is_err());
}
