//! Doors of the process beside its traffic: a status port in the clear that says nothing secret, and a Unix socket for
//! the machine's operator. Both are served by hyper on the control thread.

mod admin;
mod serve;
mod status;

use std::fmt;
use std::sync::Arc;

pub use admin::serve_admin;
pub use serve::DoorError;
pub use status::serve_status;

use crate::log::LogControl;

/// What the doors need to know of the process.
#[derive(Clone)]
pub struct Process {
    /// `Ok` when traffic may come, else why not.
    pub ready: Arc<dyn Fn() -> Result<(), &'static str> + Send + Sync>,
    /// Appends the metrics in Prometheus' text format.
    pub metrics: Arc<dyn Fn(&mut String) + Send + Sync>,
    /// All that the proxy knows and is, without secrets, as JSON.
    pub dump: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
    /// Begins an orderly stop.
    pub drain: Arc<dyn Fn() + Send + Sync>,
    /// The log.
    pub log: LogControl,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").finish_non_exhaustive()
    }
}
