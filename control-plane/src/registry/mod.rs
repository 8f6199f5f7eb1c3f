//! What exists: services and the instances that serve them, as one synchronous index.
//!
//! The index is a function of the store and of what DNS answered: it is fed entries as they lie in the store and holds
//! the resources that proxies are told, ready made. No async, no locks and no clock inside; [`handle`] wraps it for the
//! rest of the process, and tells streams of changes that concern them.
//!
//! **Versions.** A resource's version is the highest store revision of what it was made of, so it grows with every
//! change, is the same after a restart, and equal versions mean equal resources.

pub mod claim;
mod concerns;
mod encoded;
pub mod feed;
pub mod handle;
mod index;
pub mod instance;
mod labels;
pub mod lease;
mod touched;
pub mod virtual_ips;

pub use concerns::{Concern, Concerns, Listener, News};
pub use encoded::Encoded;
pub use index::{Index, InstanceName, Known, Settings, service_message};
pub use touched::{Extent, Services, Touched};
