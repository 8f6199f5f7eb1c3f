//! Compares Weft with direct connections and with other proxies that do the same job.
//!
//! `weft-bench compare` (by `integration/bench/run`) starts the proxies on one processor, and on another a client and a
//! backend, which are this program too. [`scenario`] has the rows, [`peers`] the set-ups, [`measure`] one measurement.
//!
//! What is compared is the proxies' own processor time: it hardly depends on neighbours, and for a sidecar it is what is
//! paid for. Proxies are measured in turns, so a ratio of one round is of the same minute.

pub mod backend;
pub mod compare;
pub mod frames;
pub mod guard;
pub mod host;
pub mod job;
pub mod load;
pub mod measure;
pub mod namespaces;
pub mod peers;
pub mod pipe;
pub mod process;
pub mod report;
pub mod scenario;
pub mod scene;
pub mod stats;
pub mod storm;
