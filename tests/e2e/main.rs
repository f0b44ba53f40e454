//! The real binary between real clients and real origins, with the real plugins. Each module is one concern of the proxy;
//! `support` is what they are told with.

mod support;

mod protocol;
