//! ICE restarts (RFC 8445 §9): other sockets and addresses under the same DTLS session.

use std::time::Instant;

use rtc::peer_connection::sdp::RTCSessionDescription;

use super::{
    Peer,
    negotiate::{sdp_refused, setup_failed},
};
use crate::{ConnectError, WebRtcConfig, gather::Gathering, sdp};

impl Peer {
    /// Whether an offer is one that can be taken up, tried on a peer that does nothing else: the core
    /// does not go back when it finds a fault half-way.
    ///
    /// # Errors
    /// As [`answer`](Self::answer).
    pub(crate) fn judge(now: Instant, offer: &str) -> Result<(), ConnectError> {
        let mut judge = Self::new(&WebRtcConfig::default(), now, std::iter::empty(), [1, 2])?;
        judge.answer(now, offer).map(drop)
    }

    /// Starts ICE anew (RFC 8445 §9), from the sockets that `gathering` is about; DTLS and what runs
    /// over it go on. Returns the offer that says so to the peer.
    pub(crate) fn restart(
        &mut self,
        now: Instant,
        gathering: Gathering,
    ) -> Result<String, ConnectError> {
        self.take_over(now, gathering);
        self.has_remote = false;
        self.has_offered = true;
        self.pc.restart_ice();
        let offer = self.pc.create_offer(None).map_err(setup_failed)?;
        self.set_local(now, offer)
    }

    /// Takes up the peer's [`restart`](Self::restart), even if ours is under way. Returns the answer.
    pub(crate) fn answer_restart(
        &mut self,
        now: Instant,
        gathering: Gathering,
        offer: &str,
    ) -> Result<String, ConnectError> {
        if !self.is_restart(offer) {
            return Err(ConnectError::NoRestart);
        }
        let description =
            RTCSessionDescription::offer(sdp::for_core(offer)).map_err(sdp_refused)?;
        if std::mem::take(&mut self.has_offered) {
            let back = RTCSessionDescription::rollback(None).map_err(setup_failed)?;
            self.pc
                .set_local_description(now, back)
                .map_err(setup_failed)?;
        }
        self.take_over(now, gathering);
        self.set_remote(now, description, offer)?;
        let answer = self.pc.create_answer(None).map_err(sdp_refused)?;
        let answer = self.set_local(now, answer)?;
        self.negotiated(now, offer);
        Ok(sdp::with_dtls_role(answer, self.is_dtls_client))
    }

    /// Whether an offer is the same peer's for another ICE session.
    pub(crate) fn is_restart(&self, offer: &str) -> bool {
        let same = sdp::fingerprint(offer).ok() == self.remote_fingerprint;
        same && self.remote_fingerprint.is_some() && sdp::ufrag(offer) != self.remote_ufrag
    }

    fn take_over(&mut self, now: Instant, gathering: Gathering) {
        // Relays hide our addresses; a question by multicast would show them.
        self.names.mute(gathering.is_relay_only());
        self.gathering = gathering;
        self.sources.clear();
        self.ice_connected = false;
        (self.remote, self.tcp_way) = (None, None);
        self.names.wake();
        (self.started, self.last_heard, self.kicked) = (now, now, true);
    }
}
