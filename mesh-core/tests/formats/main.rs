//! The formats that leave a process: the wire, and metadata values. Golden bytes of everything, what other builds write, and
//! decoders that bear anything.

mod access;
mod audit;
mod bounds;
mod commands;
mod golden;
mod meta;
mod orders;
mod other_builds;
mod places;
mod samples;
mod view;
mod wire;
