//! The placement engine from outside: what it decides in the situations that matter, and what always holds.

mod properties;
mod scenarios;
mod views;
