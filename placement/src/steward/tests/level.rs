//! When the mesh's level rises.

use mesh_core::meta::Level;

use super::*;

/// The mesh at one level, with a node of each of these.
fn at(level: u16, nodes: &[u16]) -> ControlView {
    let mut control = mesh(&(1..=nodes.len() as u64).collect::<Vec<_>>());
    control.level = Level(level);
    for (node, level) in (1..).map(NodeId).zip(nodes) {
        control.nodes.get_mut(&node).expect("it is there").level = Level(*level);
    }
    control
}

fn raised(acts: Vec<String>) -> Vec<String> {
    acts.into_iter().filter(|act| act.starts_with("RaiseLevel")).collect()
}

#[test]
fn the_leader_raises_the_level_once_every_node_speaks_it_and_asks_once() {
    let mut room = Room::new(at(1, &[2, 2, 1]));
    assert_eq!(raised(room.observes(leading())), [""; 0], "the third holds it back, up or down");
    room.on(Event::Control(Arc::new(at(1, &[2, 2, 2]))));
    assert_eq!(raised(room.observes(leading())), ["RaiseLevel(Level(2))"]);
    assert_eq!(raised(room.observes(leading())), [""; 0], "it is under way");
    // It did not come to pass: once more, a look later.
    room.on(Event::Ended(Key::RaiseLevel, Err(Error::new(ErrorKind::Timeout, "no majority"))));
    assert_eq!(raised(room.observes(leading())), [""; 0]);
    room.now = room.now + Duration::from_secs(1);
    assert_eq!(raised(room.observes(leading())), ["RaiseLevel(Level(2))"]);
    room.on(Event::Control(Arc::new(at(2, &[2, 2, 2]))));
    room.on(Event::Ended(Key::RaiseLevel, Ok(())));
    room.now = room.now + Duration::from_secs(1);
    assert_eq!(raised(room.observes(leading())), [""; 0]);
}

#[test]
fn only_the_leader_raises_the_level_and_to_what_all_speak() {
    let mut room = Room::new(at(1, &[4, 3, 5]));
    assert_eq!(raised(room.observes(Observed::default())), [""; 0]);
    assert_eq!(raised(room.observes(leading())), ["RaiseLevel(Level(3))"]);
}
