//! Writes rules by `nft`.

use weft_core::intercept::{RuleSet, nft};

use super::apply::{Step, Writer};
use super::error::ApplyError;
use super::tool::{DIRECTORIES, ask, feed};

const FROM_STDIN: [&str; 2] = ["-f", "-"];

/// The tool, and which tables there are.
pub(super) struct Nft {
    tool: String,
    tables: String,
}

impl Nft {
    /// The first that is there.
    pub(super) fn find() -> Result<Self, ApplyError> {
        for directory in DIRECTORIES {
            let tool = format!("{directory}nft");
            if let Some(tables) = ask(&tool, &["list", "tables"])? {
                return Ok(Self { tool, tables });
            }
        }
        Err(ApplyError::Missing { tool: "nft", package: "nftables" })
    }

    fn transaction(&self, wanted: &[RuleSet]) -> String {
        // A family that is not wanted is one that this kernel does not have.
        if wanted.is_empty() { nft::remove(&self.tables) } else { nft::replace(wanted) }
    }
}

impl Writer for Nft {
    fn name(&self) -> &'static str {
        "nft"
    }

    fn plan(&self, wanted: &[RuleSet]) -> Vec<Step> {
        vec![Step { command: format!("nft {}", FROM_STDIN.join(" ")), input: self.transaction(wanted) }]
    }

    fn write(&self, wanted: &[RuleSet]) -> Result<(), ApplyError> {
        feed(&self.tool, &FROM_STDIN, &self.transaction(wanted))
    }
}
