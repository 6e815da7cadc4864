//! A running call does not allocate: counted, not hoped for.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use roundtable_core::{Timestamp, WallTime};
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
    let config = VoiceSenderConfig::default().with_activation(Activation::Always);
    let mut sender = VoiceSender::new(config).unwrap();
    let mut receiver = VoiceReceiver::new(VoiceReceiverConfig::default()).unwrap();
    let (mut mixer, mut gain) = (Mixer::new(), Gain::default());
    let (mut out, mut block) = (Vec::with_capacity(8), [0.0; 480]);
    let captured: [f32; 480] = std::array::from_fn(|i| 0.2 * ((i % 240) as f32 / 240.0 - 0.5));
    let (mut sending, mut listening, mut packets) = (0, 0, 0);
    for tick in 0..3_000_u64 {
        let now = Timestamp::from_millis(10 * tick);
        let send = counted(|| sender.push(now, WallTime::from_millis(0), &captured, &mut out));
        let listen = counted(|| {
            for event in out.drain(..) {
                if let VoiceOut::Packet(packet) = event {
                    packets += 1;
                    // Every tenth packet is lost.
                    if packets % 10 != 0 {
                        receiver.push(now, packet);
                    }
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
    assert_eq!(listening, 0, "listening");
    assert!(
        sending <= 1_250 / 10,
        "{sending} allocations for 1250 packets"
    );
}
