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
fn a_running_call_allocates_next_to_nothing() {
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
    let (mut sending, mut listening, mut packets) = (0, 0, 0);
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
        if tick >= 500 {
            sending += send;
            listening += listen;
        }
    }
    assert!(packets >= 1_490);
    let stats = receiver.stats(Timestamp::from_micros(9_997 * 3_000));
    assert!(stats.recovered > 100 && stats.concealed > 0, "{stats:?}");
    assert!(stats.rate > 1.0, "drift was corrected: {stats:?}");
    assert_eq!(listening, 0, "listening");
    assert!(
        sending <= 1_250 / 10,
        "{sending} allocations for 1250 packets"
    );
}
