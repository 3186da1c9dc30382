//! A request on a link reaches a function at most once, however often its frame arrives.

use std::collections::BTreeSet;

use super::Invariant;

/// See the module's page.
#[derive(Debug, Default)]
pub struct Admission(BTreeSet<(u64, u64)>);

impl Invariant for Admission {
    fn admitted(&mut self, session: u64, id: u64) -> Result<(), String> {
        if self.0.insert((session, id)) { Ok(()) } else { Err(format!("request {session}/{id} was let in twice")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_a_request_that_is_let_in_twice() {
        let mut admission = Admission::default();
        assert_eq!(admission.admitted(1, 1), Ok(()));
        assert_eq!(admission.admitted(2, 1), Ok(()));
        assert!(admission.admitted(1, 1).is_err());
    }
}
