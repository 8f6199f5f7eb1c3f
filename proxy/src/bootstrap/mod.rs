//! From the command line to a typed set-up. Flags and their environment variables are parsed once, here; nothing else
//! reads the environment. Errors name the flag and the accepted form.

mod args;
mod parse;
mod proof;

pub use args::{Cli, Command, InboundModeArg, Role, RunArgs};
pub use parse::{AppPort, ServiceTarget};
pub use proof::proof;
