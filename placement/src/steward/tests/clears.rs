//! What tenants leave that were deleted.

use mesh_core::{id::TenantId, meta::EndedTenant, time::UnixMillis};

use super::*;

fn with_ended(tenants: &[u64]) -> ControlView {
    let mut control = mesh(&[1, 2, 3]);
    for tenant in tenants {
        let ended = EndedTenant { name: format!("t{tenant}"), since: UnixMillis(1) };
        control.ended.insert(TenantId(*tenant), Arc::new(ended));
    }
    control
}

fn cleared(acts: Vec<String>) -> Vec<String> {
    acts.into_iter().filter(|act| act.starts_with("Clear")).collect()
}

#[test]
fn the_leader_does_away_with_one_after_the_other_until_nothing_is_left() {
    let mut room = Room::new(with_ended(&[4, 7]));
    assert_eq!(cleared(room.observes(Observed::default())), [""; 0], "another one leads");
    assert_eq!(cleared(room.observes(leading())), ["Clear(tenant-4)"]);
    assert_eq!(cleared(room.observes(leading())), [""; 0], "it is under way");
    room.on(Event::Ended(Key::Clear, Err(Error::new(ErrorKind::Timeout, "it takes long"))));
    assert_eq!(cleared(room.observes(leading())), ["Clear(tenant-4)"], "it goes on");
    room.on(Event::Control(Arc::new(with_ended(&[7]))));
    room.on(Event::Ended(Key::Clear, Ok(())));
    assert_eq!(cleared(room.observes(leading())), ["Clear(tenant-7)"]);
    room.on(Event::Control(Arc::new(with_ended(&[]))));
    room.on(Event::Ended(Key::Clear, Ok(())));
    assert_eq!(cleared(room.observes(leading())), [""; 0]);
}
