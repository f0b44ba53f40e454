//! The proxy itself: what happens to a request on its way.

pub mod upstream;
