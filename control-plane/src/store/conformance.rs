//! What every backend must do, as one function over an empty store.
