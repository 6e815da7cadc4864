//! A running call does not allocate: counted, not hoped for.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use roundtable_core::{Timestamp, WallTime};
use roundtable_media_codec::OpusConfig;
use roundtable_voice::{
    Activation, Gain, Mixer, VoiceOut, VoiceReceiver, VoiceReceiverConfig, VoiceSender,
    VoiceSenderConfig,
};

#[cfg(feature = "device")]
#[allow(dead_code, unreachable_pub)] // a module of the crate, that is seen by nobody else
#[path = "../src/device/ring.rs"]
mod ring;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator; a counter without a destructor is all
// that is added.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the system allocator's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn counted(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn a_running_call_does_not_allocate() {
    // Lossy enough that every packet repeats two frames.
    let opus = OpusConfig::default().with_expected_loss(0.1);
    let config = VoiceSenderConfig::default()
        .with_opus(opus)
        .with_activation(Activation::Always);
    let mut sender = VoiceSender::new(config).unwrap();
    let mut receiver = VoiceReceiver::new(VoiceReceiverConfig::default()).unwrap();
    let (mut mixer, mut gain) = (Mixer::new(), Gain::default());
    let (mut out, mut block) = (Vec::with_capacity(8), [0.0; 480]);
    let captured: [f32; 480] = std::array::from_fn(|i| 0.2 * ((i % 240) as f32 / 240.0 - 0.5));
    let (mut sending, mut listening, mut packets, mut fast) = (0, 0, 0, 0);
    for tick in 0..3_000_u64 {
        let wall = WallTime::from_millis(10 * tick);
        let sent = Timestamp::from_millis(10 * tick);
        let send = counted(|| sender.push(sent, wall, &captured, &mut out));
        // The listener's clock runs 300 ppm slow.
        let now = Timestamp::from_micros(9_997 * tick);
        let listen = counted(|| {
            for event in out.drain(..) {
                match event {
                    VoiceOut::Packet(packet) => {
                        packets += 1;
                        // Every tenth packet is lost, and once in a while more than are repeated.
                        if packets % 10 != 0 && packets % 100 > 3 {
                            receiver.push(now, packet);
                        }
                    }
                    VoiceOut::Clock(clock) => receiver.push_clock(now, clock),
                }
            }
            receiver.pull(now, &mut block);
            mixer.add(&block, &mut gain);
            mixer.finish(&mut block);
        });
        fast += u32::from(receiver.stats(now).rate > 1.0);
        if tick >= 500 {
            sending += send;
            listening += listen;
        }
    }
    assert!(packets >= 1_490);
    let stats = receiver.stats(Timestamp::from_micros(9_997 * 3_000));
    assert!(stats.recovered > 100 && stats.concealed > 0, "{stats:?}");
    assert!(fast > 100, "played faster at times: {stats:?}");
    assert_eq!(listening, 0, "listening");
    assert_eq!(sending, 0, "sending");
}

/// What the sound system's own thread runs. It has no lock to take: its rings and counters are all it can reach.
#[cfg(feature = "device")]
#[test]
fn the_callbacks_of_a_device_never_allocate() {
    use std::{sync::Arc, time::Duration};

    let health = Arc::new(ring::Health::default());
    let (mut tap, mut heard) = ring::Tap::new(48_000, 2, health.clone());
    let (mut feed, mut played) = ring::Feed::new(48_000, 2, 6, health.clone());
    let captured: [f32; 960] = std::array::from_fn(|i| if i % 2 == 0 { 0.5 } else { 0.1 });
    let (mut speakers, mut integers) = ([1.0_f32; 6 * 480], [1_i16; 6 * 480]);
    // Until the ring is full, and beyond.
    let allocations = counted(|| {
        for _ in 0..30 {
            tap.take(&captured, Duration::from_millis(3));
        }
    });
    assert_eq!(allocations, 0, "capturing");
    assert_eq!((heard.slots(), health.missed()), (9_600, 10 * 480));
    assert!(
        (heard.pop().unwrap() - 0.3).abs() < 1e-6,
        "the mean of both channels"
    );

    for _ in 0..480 {
        played.push(0.25).unwrap();
        played.push(-0.5).unwrap();
    }
    let allocations = counted(|| {
        feed.fill(&mut speakers, Duration::from_millis(3));
        feed.fill(&mut integers, Duration::from_millis(3));
    });
    assert_eq!(allocations, 0, "playing");
    for frame in speakers.chunks(6) {
        assert_eq!(frame, [0.25, -0.5, 0.0, 0.0, 0.0, 0.0]);
    }
    assert!(
        integers.iter().all(|x| *x == 0),
        "silence where nothing is left"
    );
    assert_eq!((health.missed(), health.latency_us()), (11 * 480, 3_000));
}
