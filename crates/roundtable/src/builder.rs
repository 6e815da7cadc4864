//! How a room is joined.

use std::{fmt, time::Duration};

use roundtable_command_log::{GenesisParams, Limits, Schema, Strategy, Unrestored};
use roundtable_core::{Clock, PeerId, RoomId};
use roundtable_log_store::Contents;
use roundtable_session::{GenesisSource, Now, Session, SessionConfig};
use roundtable_signaling_client::{ClientConfig, SignalingClient, TokenSource};
use roundtable_signaling_protocol::{Capabilities, Capability};
use roundtable_transport::SystemClock;
use roundtable_transport_quic::{QuicConfig, QuicEndpoint};
use roundtable_transport_webrtc::WebRtcConfig;
use tokio::sync::mpsc;

use crate::{
    Identity, Invite, JoinError, Room, TransportPreference,
    actor::Actor,
    doctor::{self, Diagnosis},
    links::Links,
    mesh::Mesh,
    negotiation::Negotiator,
    network::Network,
    noted::Noted,
    peers::Attempts,
    room::Shared,
    store::Durable,
    telling::Teller,
    voice::{self, Voice, VoiceTask},
};

/// Requests and frames that may wait for the room's task; senders wait beyond that.
const INBOX: usize = 1024;

/// Settings of a room, each with a default. See [`Room::builder`].
#[derive(Debug, Clone)]
#[must_use = "nothing happens before `join`"]
pub struct RoomBuilder {
    server: String,
    more_servers: Vec<String>,
    room: String,
    peer: String,
    invite: Option<Invite>,
    access: Access,
    schema: Option<Schema>,
    identity: Option<Identity>,
    transport: TransportPreference,
    guests: bool,
    limits: Limits,
    flush_interval: Option<Duration>,
    checkpoint_interval: Option<Duration>,
    voice: Option<Voice>,
    webrtc: WebRtcConfig,
    quic: QuicConfig,
    display_name: Option<String>,
    watch_network: bool,
}

/// What a closed server is shown.
#[derive(Clone)]
enum Access {
    None,
    Grant(String),
    Source(TokenSource),
    Invite(String),
}

impl Access {
    /// The secret of an invite.
    fn secret(&self) -> Option<&str> {
        match self {
            Self::Invite(secret) => Some(secret),
            _ => None,
        }
    }
}

/// Shows none of the secrets.
impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Grant(_) => "Grant(..)",
            Self::Source(_) => "Source(..)",
            Self::Invite(_) => "Invite(..)",
        })
    }
}

impl RoomBuilder {
    pub(crate) fn new(server: &str, room: &str, peer: &str) -> Self {
        Self {
            server: server.to_owned(),
            more_servers: Vec::new(),
            room: room.to_owned(),
            peer: peer.to_owned(),
            invite: None,
            access: Access::None,
            schema: None,
            identity: None,
            transport: TransportPreference::default(),
            guests: false,
            limits: Limits::default(),
            flush_interval: None,
            checkpoint_interval: None,
            voice: None,
            webrtc: WebRtcConfig::default(),
            quic: QuicConfig::default(),
            display_name: None,
            watch_network: true,
        }
    }

    /// Joins the room that an invite leads to, and no other that the server may show instead. An invite to a closed
    /// server lets in, too.
    pub fn invite(mut self, invite: Invite) -> Self {
        if let Some(secret) = invite.secret() {
            self.access = Access::Invite(secret.to_owned());
        }
        self.server = invite.signaling_url();
        self.room = invite.room().to_string();
        self.invite = Some(invite);
        self
    }

    /// Shows a closed server this grant. When the grant ends, so does signaling; links stay up. Default: none.
    pub fn token(mut self, grant: impl Into<String>) -> Self {
        self.access = Access::Grant(grant.into());
        self
    }

    /// Shows a closed server the grants of this source, a new one whenever one is needed.
    pub fn token_source(mut self, source: TokenSource) -> Self {
        self.access = Access::Source(source);
        self
    }

    /// Has a closed server exchange this secret, the invite of `POST /v1/rooms`, for grants, whenever one is needed.
    pub fn invite_secret(mut self, secret: impl Into<String>) -> Self {
        self.access = Access::Invite(secret.into());
        self
    }

    /// Further signaling servers of the same cluster: when one fails or stops, this peer goes to
    /// another, and its links stay up. Default: none.
    pub fn more_servers<S: Into<String>>(mut self, urls: impl IntoIterator<Item = S>) -> Self {
        self.more_servers.extend(urls.into_iter().map(Into::into));
        self
    }

    /// The kinds of shared state. Every peer of a room needs the same. Default: one type of key,
    /// number 0, whose last writer wins.
    pub fn schema(mut self, schema: Schema) -> Self {
        self.schema = Some(schema);
        self
    }

    /// Who signs. Default: a new key that lasts as long as the room.
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Which transports are used. Default [`TransportPreference::Auto`].
    pub fn transport(mut self, transport: TransportPreference) -> Self {
        self.transport = transport;
        self
    }

    /// If this peer creates the room: whether peers without a session handshake, browsers for now,
    /// are let in with voice and messages. Default no.
    pub fn guests(mut self, allowed: bool) -> Self {
        self.guests = allowed;
        self
    }

    /// If this peer creates the room: how many commands an author may sign. Default a burst of 100
    /// and 10 a second.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How long a command may wait for others to share its signature. Default 11 ms, 0 to 1 s.
    pub fn flush_interval(mut self, interval: Duration) -> Self {
        self.flush_interval = Some(interval);
        self
    }

    /// How often this peer, while it is an Admin, proposes that what everyone has seen become final, so that
    /// logs let go of it ([`Room::propose_checkpoint`]). Default never, 10 s to a day.
    pub fn checkpoint_interval(mut self, interval: Duration) -> Self {
        self.checkpoint_interval = Some(interval);
        self
    }

    /// Speaks and listens. Default: neither.
    pub fn voice(mut self, voice: Voice) -> Self {
        self.voice = Some(voice);
        self
    }

    /// How WebRTC links are made. The STUN and TURN servers that the signaling server hands out are
    /// used besides those that are given here.
    pub fn webrtc(mut self, config: WebRtcConfig) -> Self {
        self.webrtc = config;
        self
    }

    /// How QUIC links are made.
    pub fn quic(mut self, config: QuicConfig) -> Self {
        self.quic = config;
        self
    }

    /// Whether the addresses of this machine's interfaces are looked at, twice a second, and links moved when they change, as
    /// by [`Room::network_changed`]. Default yes.
    pub fn watch_network(mut self, watch: bool) -> Self {
        self.watch_network = watch;
        self
    }

    /// What people are shown in place of the peer's id. Default: the id.
    pub fn display_name(mut self, name: impl Into<String>) -> Self {
        self.display_name = Some(name.into());
        self
    }

    /// Joins. Returns when the server has admitted this peer; links to the others come up
    /// meanwhile and afterwards, as [`Event::Connected`](crate::Event::Connected). Needs a tokio runtime.
    ///
    /// # Errors
    /// [`JoinError`] says what to do. Nothing is left behind.
    pub async fn join(self) -> Result<Room, JoinError> {
        let room: RoomId = self.room.parse()?;
        let peer: PeerId = self.peer.parse()?;
        let identity = match &self.identity {
            Some(identity) => identity.clone(),
            None => Identity::ephemeral()?,
        };
        self.webrtc.validate()?;
        let (log, stored) = identity.room(&room)?;
        let clock = SystemClock;
        let now = Now {
            mono: clock.now(),
            wall: clock.wall(),
        };
        let (noted, authors) = (Noted::of(&stored), stored.frames.keys().copied());
        let authors: Vec<_> = authors.collect();
        let session = self.session(&room, &peer, &identity, stored, now)?;
        let quic = match self.transport.allows_quic() {
            true => Some(QuicEndpoint::bind(self.quic.clone(), identity.key())?),
            false => None,
        };
        let voice = match self.voice.clone() {
            Some(voice) => Some(VoiceTask::start(voice, clock)?),
            None => None,
        };
        let config = self.signaling(&room, &peer)?;
        let invite = Invite::new(config.url(), room, None).with_secret(self.access.secret());
        let announced = clock.now();
        let (signaling, joined, signals) = SignalingClient::join(config).await?;

        let events = Teller::new();
        let (requests, request_queue) = mpsc::channel(INBOX);
        let (from_links, inbox) = mpsc::channel(INBOX);
        let shared = Shared {
            author: identity.author(),
            peer: peer.clone(),
            invite,
            first_events: Some(events.listen()).into(),
            events: events.clone(),
            voice: voice.as_ref().map(VoiceTask::handle),
            task: None.into(),
        };
        let negotiator = Negotiator::new(signaling.clone(), self.webrtc, quic.clone());
        let actor = Actor {
            watch: Default::default(),
            clock,
            signaling,
            signals,
            links: Links::new(from_links),
            inbox,
            attempts: Attempts::new(peer, self.transport, negotiator),
            requests: request_queue,
            events,
            durable: Durable::new(log, &session, noted, authors),
            session,
            may_edit: false,
            quic,
            voice,
            moving: false,
            network: self.watch_network.then(Network::watch),
            author: identity.author(),
            mesh: Mesh::new(),
            hurry_until: None,
        };
        let task = tokio::spawn(actor.run(joined, announced));
        let task = Some(task).into();
        let shared = Shared { task, ..shared };
        let shared = shared.into();
        Ok(Room { requests, shared })
    }

    /// Checks each thing that a connection depends on by itself: signaling, direct links, and every way to
    /// every STUN and TURN server that signaling hands out. Takes up to 15 s. Enters the room for a moment,
    /// with nothing to offer.
    ///
    /// # Errors
    /// [`JoinError`] if signaling does not let us in. What else does not work is in the diagnosis.
    pub async fn diagnose(self) -> Result<Diagnosis, JoinError> {
        self.webrtc.validate()?;
        let signaling = self.signaling(&self.room.parse()?, &self.peer.parse()?)?;
        // One must be named; nobody offers a link for this one alone.
        let nothing: Capabilities = [Capability::Audio].into_iter().collect();
        doctor::diagnose(signaling.with_capabilities(nothing), self.webrtc).await
    }

    fn session(
        &self,
        room: &RoomId,
        peer: &PeerId,
        identity: &Identity,
        stored: Contents,
        now: Now,
    ) -> Result<Session, JoinError> {
        let (mut seed, mut room_id) = ([0; 32], [0; 32]);
        getrandom::fill(&mut seed).map_err(JoinError::Random)?;
        getrandom::fill(&mut room_id).map_err(JoinError::Random)?;
        let schema = self.schema.clone().unwrap_or_else(default_schema);
        let invited = self.invite.as_ref().and_then(Invite::genesis);
        let source = match (stored.genesis.clone(), invited) {
            (Some(genesis), invited) => {
                if invited.is_some_and(|hash| hash != genesis.hash()) {
                    return Err(JoinError::OtherRoom);
                }
                match invited {
                    Some(_) => GenesisSource::Known(genesis),
                    None => GenesisSource::Remembered(genesis),
                }
            }
            (None, Some(hash)) => GenesisSource::Invited(hash),
            (None, None) => GenesisSource::FirstCome(GenesisParams {
                limits: self.limits,
                guests_allowed: self.guests,
                ..GenesisParams::new(room_id, now.wall, schema.hash())
            }),
        };
        let capabilities = self.capabilities();
        let key = identity.key().clone();
        let mut config = SessionConfig::new(peer.clone(), room.clone(), key, schema, source, seed)
            .with_capabilities(capabilities.iter().map(Capability::name));
        if let Some(interval) = self.flush_interval {
            config = config.with_flush_interval(interval);
        }
        if let Some(interval) = self.checkpoint_interval {
            config = config.with_checkpoint_interval(interval);
        }
        let mut session = Session::new(config, now)?;
        session.forsake(stored.superseded.iter().copied());
        // What others wrote may have gaps, which peers fill; what we wrote may not.
        let own = stored.frames.get(&session.author());
        let own = own.cloned().unwrap_or_default();
        if let Some(snapshot) = stored.snapshot.clone() {
            session.install(now, snapshot)?;
        }
        session.restore(now, stored.into_frames());
        let Some(log) = session.log() else {
            return Ok(session);
        };
        match log.unrestored(own) {
            lost if lost == Unrestored::default() => Ok(session),
            Unrestored {
                refused, waiting, ..
            } => Err(JoinError::Restore { refused, waiting }),
        }
    }

    fn capabilities(&self) -> Capabilities {
        let has = [
            (Capability::Session, true),
            (Capability::Data, self.transport.allows_webrtc()),
            (Capability::Audio, self.voice.is_some()),
            (Capability::Quic, self.transport.allows_quic()),
        ];
        has.into_iter()
            .filter(|(_, has)| *has)
            .map(|(capability, _)| capability)
            .collect()
    }

    fn signaling(&self, room: &RoomId, peer: &PeerId) -> Result<ClientConfig, JoinError> {
        let name = self.display_name.as_deref().unwrap_or(&self.peer);
        let config = ClientConfig::new(&self.server, room.clone(), peer.clone())?
            .with_more_urls(&self.more_servers)?
            .with_capabilities(self.capabilities())
            .with_user_data(serde_json::json!({ "name": name }));
        Ok(match self.access.clone() {
            Access::None => config,
            Access::Grant(grant) => config.with_token(grant),
            Access::Source(source) => config.with_token_source(source),
            Access::Invite(secret) => config.with_invite(secret),
        })
    }
}

/// One type of key for everything, and one for voice: the last writer wins.
fn default_schema() -> Schema {
    Schema::builder(1, 0)
        .key_type(0, "value", Strategy::LastWriteWins)
        .key_type(voice::KEY_TYPE, voice::KEY_NAME, voice::STRATEGY)
        .build()
        .expect("two types with short names")
}
