//! The negotiation: descriptions and candidates, ours and the peer's (RFC 8829, RFC 8838).

use std::time::Instant;

use roundtable_signaling_protocol::IceCandidate;
use rtc::{
    peer_connection::{sdp::RTCSessionDescription, transport::RTCIceCandidateInit},
    shared::error::Error,
};

use super::{Event, Peer};
use crate::{ConnectError, flight::Kind, gather::Gathered, sdp};

pub(super) fn setup_failed(error: Error) -> ConnectError {
    tracing::debug!(%error, "set-up");
    ConnectError::Setup
}

pub(super) fn sdp_refused(error: Error) -> ConnectError {
    tracing::debug!(%error, "session description");
    ConnectError::Sdp
}

/// In the core's words.
fn to_core(candidate: &IceCandidate) -> RTCIceCandidateInit {
    RTCIceCandidateInit {
        candidate: candidate.candidate.clone(),
        ..Default::default()
    }
}

impl Peer {
    /// Takes up what gathering brought.
    pub(super) fn absorb(&mut self, now: Instant) {
        while let Some(event) = self.gathering.poll_event() {
            match event {
                Gathered::Datagram(packet) => self.receive(now, packet),
                Gathered::Candidate(candidate) => self.add_local_candidate(candidate),
                Gathered::Done => {
                    self.add_local_candidate(IceCandidate {
                        sdp_mid: Some("0".into()),
                        sdp_m_line_index: Some(0),
                        ..Default::default()
                    });
                    if self.gathering.is_relay_missing() {
                        self.events.push_back(Event::NoRelay);
                    }
                }
            }
        }
    }

    fn add_local_candidate(&mut self, candidate: IceCandidate) {
        match self.pc.add_local_candidate(to_core(&candidate)) {
            Ok(()) => {
                self.kicked |= self.has_remote && !candidate.is_end();
                // What is known before the description is in it.
                if self.local_fingerprint.is_some() {
                    let candidate = IceCandidate {
                        candidate: self.names.masked(&candidate.candidate),
                        ..candidate
                    };
                    self.events.push_back(Event::LocalCandidate(candidate));
                }
            }
            Err(error) => tracing::debug!(%error, "local candidate"),
        }
    }

    /// Our description, to be answered.
    pub(crate) fn offer(&mut self, now: Instant) -> Result<String, ConnectError> {
        let offer = self.pc.create_offer(None).map_err(setup_failed)?;
        self.set_local(now, offer)
    }

    /// Our answer to the peer's description.
    pub(crate) fn answer(&mut self, now: Instant, offer: &str) -> Result<String, ConnectError> {
        let description =
            RTCSessionDescription::offer(sdp::for_core(offer)).map_err(sdp_refused)?;
        self.set_remote(now, description, offer)?;
        let answer = self.pc.create_answer(None).map_err(sdp_refused)?;
        let answer = self.set_local(now, answer)?;
        self.negotiated(now, offer);
        Ok(answer)
    }

    /// The peer's answer to our description.
    pub(crate) fn accept_answer(&mut self, now: Instant, answer: &str) -> Result<(), ConnectError> {
        let description =
            RTCSessionDescription::answer(sdp::for_core(answer)).map_err(sdp_refused)?;
        self.set_remote(now, description, answer)?;
        if !self.is_open() {
            self.is_dtls_client = sdp::is_passive(answer);
        }
        self.negotiated(now, answer);
        Ok(())
    }

    pub(super) fn set_local(
        &mut self,
        now: Instant,
        description: RTCSessionDescription,
    ) -> Result<String, ConnectError> {
        self.pc
            .set_local_description(now, description)
            .map_err(setup_failed)?;
        for host in self.gathering.hosts() {
            self.pc
                .add_local_candidate(to_core(&host))
                .map_err(setup_failed)?;
        }
        // Without servers there is nothing to wait for, and the description says so.
        self.absorb(now);
        let sdp = self.pc.local_description().ok_or(ConnectError::Setup)?.sdp;
        self.local_fingerprint = Some(sdp::fingerprint(&sdp)?);
        Ok(self.names.masked_description(sdp))
    }

    pub(super) fn set_remote(
        &mut self,
        now: Instant,
        description: RTCSessionDescription,
        sdp: &str,
    ) -> Result<(), ConnectError> {
        let fingerprint = sdp::fingerprint(sdp)?;
        // A link stays with the certificate that it began with.
        if self
            .remote_fingerprint
            .is_some_and(|known| known != fingerprint)
        {
            return Err(ConnectError::OtherCertificate);
        }
        self.pc
            .set_remote_description(now, description)
            .map_err(sdp_refused)?;
        self.remote_fingerprint = Some(fingerprint);
        Ok(())
    }

    pub(super) fn negotiated(&mut self, now: Instant, remote_sdp: &str) {
        self.has_remote = true;
        self.has_offered = false;
        self.remote_ufrag = sdp::ufrag(remote_sdp);
        self.media.negotiated(&mut self.pc, sdp::ssrcs(remote_sdp));
        (self.started, self.kicked) = (now, true);
        self.check_at_once();
        for candidate in sdp::candidates(remote_sdp) {
            // The core has those with addresses from the description itself.
            self.names.want(now, candidate);
        }
        for candidate in std::mem::take(&mut self.held_candidates) {
            self.add_remote_candidate(candidate);
        }
        for packet in self.early_stun.release() {
            self.feed(now, Kind::Stun, packet);
        }
    }

    /// Takes a candidate of the peer's; held back until its description is known. The caller limits
    /// their number and has checked the syntax.
    pub(crate) fn add_remote_candidate(&mut self, candidate: RTCIceCandidateInit) {
        if !self.has_remote {
            self.held_candidates.push(candidate);
        } else if self.names.want(self.last_tick, &candidate.candidate) {
            // Its address follows, if anybody knows the name.
        } else if let Err(error) = self.pc.add_remote_candidate(candidate) {
            tracing::debug!(%error, "remote candidate");
        } else {
            self.check_at_once();
        }
    }
}
