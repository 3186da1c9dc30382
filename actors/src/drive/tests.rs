//! The drive against a medium in memory: every test drives the machine with a stream of events.

mod medium;
mod model;
mod recovery;
mod requests;
mod scrub;
mod space;
mod world;
