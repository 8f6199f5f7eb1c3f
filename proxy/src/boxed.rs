//! Large futures, apart from those that wait for them.

use std::pin::Pin;

use crate::waiting::Waiting;

/// What a connection does once it is known what it is, until its end or until it does nothing for long, in a box of its
/// own: while it lasts it holds nothing of how it began.
pub type Serving = Pin<Box<dyn Future<Output = Option<Waiting>>>>;

/// The same; `None`: it is over already.
pub type Going = Option<Serving>;

/// Makes a future in a box. `Box::pin` makes it first and moves it then, because making room might fail while it has
/// something to drop: for the future of a request that is a copy of 10 KiB. Here there is room first.
pub fn boxed<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    let room = Box::new_uninit();
    Box::into_pin(Box::write(room, make()))
}
