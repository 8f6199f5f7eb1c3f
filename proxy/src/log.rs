//! The process log: set up once, its level changeable while it runs.

use std::sync::Arc;
use std::time::Duration;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// Changes the level while the process runs. Clones act on the same log.
#[derive(Clone, Debug)]
pub struct LogControl {
    handle: reload::Handle<EnvFilter, Registry>,
    configured: Arc<str>,
}

/// Why a level could not be set.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The text is no filter.
    #[error("log filter {directive:?} is not understood: {reason}; write for example info,weft_proxy=debug")]
    Filter {
        /// The text.
        directive: String,
        /// What the parser said.
        reason: String,
    },
    /// The log is gone or was set up twice.
    #[error("log cannot be changed: {0}")]
    Gone(String),
}

/// Starts logging to standard error.
///
/// # Errors
/// [`LogError`] for a bad filter, or when the process already has a log.
pub fn start(directive: &str) -> Result<LogControl, LogError> {
    let (layer, handle) = reload::Layer::new(filter(directive)?);
    tracing_subscriber::registry()
        .with(layer)
        .with(
            tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())),
        )
        .try_init()
        .map_err(|error| LogError::Gone(error.to_string()))?;
    Ok(LogControl { handle, configured: directive.into() })
}

impl LogControl {
    /// The filter in force, as text.
    ///
    /// # Errors
    /// [`LogError::Gone`].
    pub fn current(&self) -> Result<String, LogError> {
        self.handle.with_current(ToString::to_string).map_err(|error| LogError::Gone(error.to_string()))
    }

    /// Puts a filter in force; an empty one returns to that of the start.
    ///
    /// # Errors
    /// Any [`LogError`]; the old filter stays then.
    pub fn set(&self, directive: &str) -> Result<(), LogError> {
        let directive = if directive.is_empty() { &*self.configured } else { directive };
        let filter = filter(directive)?;
        self.handle.reload(filter).map_err(|error| LogError::Gone(error.to_string()))?;
        tracing::info!(directive, "log level changed");
        Ok(())
    }

    /// As [`LogControl::set`], and back to the filter of the start after `time`. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// As [`LogControl::set`].
    pub fn set_for(&self, directive: &str, time: Duration) -> Result<(), LogError> {
        self.set(directive)?;
        let control = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            if let Err(error) = control.set("") {
                tracing::warn!(%error, "log level did not return");
            }
        });
        Ok(())
    }
}

fn filter(directive: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder()
        .parse(directive)
        .map_err(|error| LogError::Filter { directive: directive.to_owned(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_changes_and_returns() {
        let log = start("info").unwrap();
        log.set("warn,weft_proxy=debug").unwrap();
        assert!(log.current().unwrap().contains("weft_proxy=debug"));
        assert!(matches!(log.set("weft_proxy=loud"), Err(LogError::Filter { .. })));
        assert!(log.current().unwrap().contains("weft_proxy=debug"), "a bad filter leaves the old one");
        log.set("").unwrap();
        assert_eq!(log.current().unwrap(), "info");
    }
}
