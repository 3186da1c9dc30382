//! The formats that leave a process: the wire, and metadata values. Golden bytes of everything, and decoders that
//! bear anything.

mod bounds;
mod commands;
mod golden;
mod meta;
mod samples;
mod wire;
