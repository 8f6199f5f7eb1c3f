//! Pure decisions of the Weft service mesh.
//!
//! Everything here takes its inputs as values (the clock as [`time::Moment`], chance as [`entropy::Entropy`]) and returns
//! a value with a reason; nothing reads a socket, a file, a clock or the environment, and nothing is async. The proxy
//! acts on these decisions, the control plane validates with them, the CLI predicts with them: three users of one code.

pub mod authority;
pub mod balance;
mod byte_set;
pub mod detect;
pub mod entropy;
pub mod fault;
pub mod fields;
pub mod h1;
pub mod handover;
pub mod hash;
pub mod http2;
pub mod identity;
pub mod intercept;
pub mod interest;
pub mod message;
pub mod model;
pub mod names;
pub mod propagate;
pub mod reuse;
pub mod share;
pub mod snapshot;
pub mod sync;
pub mod text;
pub mod time;
pub mod translate;
pub mod workers;
