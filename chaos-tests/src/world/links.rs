//! Calls between nodes: through the wire codec, over sessions, past the filters.

use core::time::Duration;

use mesh_core::{
    Buf, Error, ErrorKind, Op, Outcome, Request, Trace,
    envelope::{Body, Envelope},
    id::{ActorId, Epoch, NodeId},
    wire::{PREAMBLE_BYTES, Preamble},
};

use super::{Happening, Notice, Place, World, host::Origin};
use crate::{
    network::{Fate, SILENCE},
    trace::Digest as _,
};

/// What travels on a link.
#[derive(Clone, Debug)]
pub(super) enum Frame {
    /// A request for this life of the callee.
    Request { session: u64, peer_boot: u64, head: Vec<u8>, payload: Buf },
    /// Its answer.
    Answer { session: u64, head: Vec<u8>, payload: Buf },
}

fn sealed(envelope: &Envelope) -> Result<Vec<u8>, Error> {
    envelope.encode_head().map(|head| head.to_vec())
}

fn opened(head: &[u8], payload: Buf) -> Result<Envelope, Error> {
    let Some((preamble, header)) = head.split_first_chunk::<PREAMBLE_BYTES>() else {
        return Err(Error::invalid("a frame that is too short"));
    };
    Envelope::decode(Preamble::decode(preamble)?, header, payload)
}

impl World {
    /// Sends a request; `epoch` is the sender's idea of the actor's.
    pub(super) fn call_over_link(
        &mut self,
        place: Place,
        to: NodeId,
        (actor, epoch): (ActorId, Epoch),
        request: Request,
    ) {
        let from = place.node;
        let budget = request.deadline.after(self.clock(from));
        let reachable = self.is_up(to) && self.network.is_open(from, to) && self.network.is_open(to, from);
        if !self.network.has_session(from, to) && !reachable {
            let after = self.local.span(&(Duration::from_micros(100)..Duration::from_millis(50)));
            let error = Error::new(ErrorKind::Unreachable, "the peer cannot be reached now").with("node", to);
            self.schedule(after, Happening::Reply { place, outcome: Err(error) });
            return;
        }
        let boot = self.nodes.get(&to).map_or(0, |node| node.boot);
        let session = self.network.session(from, to, boot);
        let (number, peer_boot, id) = (session.number, session.peer_boot, session.begin(place));
        let Request { op, payload, principal, lane, trace, .. } = request;
        let mut envelope = Envelope::request(actor, epoch, op, payload.clone(), principal, lane, budget).traced(trace);
        envelope.header.id = id;
        let head = match sealed(&envelope) {
            Ok(head) => head,
            Err(error) => {
                if let Some(place) = self.network.settle(from, to, number, id) {
                    self.reply(place, Err(error));
                }
                return;
            }
        };
        self.schedule(budget, Happening::CallDeadline { from, to, session: number, id });
        let frame = Frame::Request { session: number, peer_boot, head, payload };
        if let Some(silence) = self.send(from, to, frame) {
            self.schedule(silence, Happening::EndSession { from, to, number });
        }
    }

    /// Sends a frame; if it is lost, how long until its sender gives the session up.
    fn send(&mut self, from: NodeId, to: NodeId, frame: Frame) -> Option<Duration> {
        match self.network.carry(from, to) {
            Fate::Arrives(after, again) => {
                if let Some(again) = again {
                    self.schedule(again, Happening::Frame { from, to, frame: frame.clone() });
                }
                self.schedule(after, Happening::Frame { from, to, frame });
                None
            }
            Fate::Lost(silence) => {
                self.note(&[30, from.0, to.0], || format!("{from} => {to}: a frame is lost"));
                Some(silence)
            }
        }
    }

    pub(super) fn send_answer(&mut self, node: NodeId, to: NodeId, session: u64, id: u64, outcome: Outcome) {
        let payload = outcome.as_ref().map(|response| response.payload.clone()).unwrap_or_default();
        let envelope = Envelope::answer(id, mesh_core::Lane::Interactive, outcome);
        let head = match sealed(&envelope) {
            Ok(head) => head,
            Err(error) => return self.violate(|| format!("{node}: an answer cannot be encoded: {error}")),
        };
        if let Some(silence) = self.send(node, to, Frame::Answer { session, head, payload }) {
            self.schedule(silence, Happening::EndSession { from: to, to: node, number: session });
        }
    }

    pub(super) fn take_frame(&mut self, from: NodeId, to: NodeId, frame: Frame) {
        if !self.is_up(to) {
            // Nobody hears; whoever waits will notice the silence.
            if let Frame::Request { session, .. } = frame {
                let silence = self.local.span(&SILENCE);
                self.schedule(silence, Happening::EndSession { from, to, number: session });
            }
            return;
        }
        match frame {
            Frame::Request { session, peer_boot, head, payload } => {
                self.take_call(from, to, (session, peer_boot), &head, payload);
            }
            Frame::Answer { session, head, payload } => {
                let envelope = match opened(&head, payload) {
                    Ok(envelope) => envelope,
                    Err(error) => return self.violate(|| format!("{to}: an answer cannot be decoded: {error}")),
                };
                // The caller's session is the other way round.
                let Some(place) = self.network.settle(to, from, session, envelope.header.id) else { return };
                match envelope.into_outcome() {
                    Ok(outcome) => self.take_reply(place, outcome),
                    Err(error) => self.violate(|| format!("{to}: an answer that is none: {error}")),
                }
            }
        }
    }

    fn take_call(&mut self, from: NodeId, to: NodeId, (session, peer_boot): (u64, u64), head: &[u8], payload: Buf) {
        let boot = self.nodes.get(&to).map_or(0, |node| node.boot);
        if boot != peer_boot {
            // Another life of the callee knows nothing of this session, and says so.
            self.schedule(Duration::from_micros(100), Happening::EndSession { from, to, number: session });
            return;
        }
        let envelope = match opened(head, payload) {
            Ok(envelope) => envelope,
            Err(error) => return self.violate(|| format!("{to}: a request cannot be decoded: {error}")),
        };
        let id = envelope.header.id;
        if !self.network.admit(to, from, session, id) {
            self.note(&[31, from.0, to.0, id], || format!("{from} => {to}: request {session}/{id} again, dropped"));
            return;
        }
        if let Err(why) = self.invariants.admitted(session, id) {
            return self.violate(|| why);
        }
        let header = envelope.header;
        let Body::Request(op) = header.body else {
            return self.violate(|| format!("{to}: a request that is none"));
        };
        let deadline = self.clock(to) + Duration::from_micros(header.budget_us);
        let trace = Trace::from_header(&header.trace);
        let (payload, lane) = (envelope.payload, header.lane);
        let request = Request { op, payload, principal: header.principal, deadline, lane, trace };
        self.note(&[33, from.0, to.0, request.op.digest()], || format!("{from} => {to}: request {session}/{id}"));
        let origin = Origin::Link { from, session, id };
        match request.op {
            Op::Node(op) if header.actor == ActorId::NODE => {
                let payload = request.payload;
                self.notices.push_back(Notice::Asked { node: to, from: origin, op, payload });
            }
            _ => self.take_request(to, boot, (header.actor, header.epoch), origin, request),
        }
    }

    pub(super) fn end_session(&mut self, from: NodeId, to: NodeId, number: u64) {
        for place in self.network.end_session(from, to, number) {
            let error = Error::new(ErrorKind::LinkLost, "the link broke").with("node", to);
            self.take_reply(place, Err(error));
        }
    }
}
