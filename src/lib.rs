pub mod phase;
