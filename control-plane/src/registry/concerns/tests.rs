use proptest::prelude::*;

use super::super::touched::Extent;
use super::*;

fn concern(number: u8) -> Concern {
    if number.is_multiple_of(2) {
        Concern::Service(ServiceKey { namespace: "n".into(), name: number.to_string().as_str().into() })
    } else {
        Concern::Address([10, 0, 0, number].into())
    }
}

fn touching(numbers: &BTreeSet<u8>) -> Touched {
    let mut touched = Touched::default();
    for number in numbers {
        match concern(*number) {
            Concern::Service(key) => touched.services.insert(key, Extent::Whole),
            Concern::Address(address) => _ = touched.addresses.insert(address),
        }
    }
    touched
}

proptest! {
    #[test]
    fn each_hears_of_its_concerns_and_of_nothing_else(
        steps in proptest::collection::vec((any::<bool>(), 0..8_u8, 0..4_u64), 0..60),
        touched in proptest::collection::btree_set(0..8_u8, 0..8),
    ) {
        let mut inverted = Inverted::default();
        let mut model = BTreeSet::new();
        for (insert, number, stream) in steps {
            if insert {
                inverted.insert(concern(number), stream);
                model.insert((stream, number));
            } else {
                inverted.remove(&concern(number), stream);
                model.remove(&(stream, number));
            }
        }
        let expected = (0..4_u64).filter_map(|stream| {
            let heard = touched.iter().copied().filter(|number| model.contains(&(stream, *number))).collect();
            Some((stream, touching(&heard))).filter(|(_, touched)| !touched.is_empty())
        });
        prop_assert_eq!(inverted.concerned(&touching(&touched)), expected.collect());
        let left: BTreeSet<_> = model.iter().map(|(_, number)| concern(*number)).collect();
        prop_assert_eq!(inverted.streams.keys().cloned().collect::<BTreeSet<_>>(), left, "nothing is kept of those gone");
    }
}

#[tokio::test]
async fn news_gather_until_they_are_taken_and_end_with_the_listener() {
    let concerns = Concerns::default();
    let mut listener = concerns.listen();
    listener.insert(concern(2));
    let (first, later) = (Instant::now(), Instant::now() + std::time::Duration::from_secs(1));
    concerns.notify(&touching(&[1, 2, 3].into()), first, || ());
    listener.insert(concern(3));
    concerns.notify(&touching(&[3, 4].into()), later, || ());
    listener.touched().await;
    let news = listener.take().unwrap();
    assert_eq!((news.touched, news.since), (touching(&[2, 3].into()), first));
    concerns.notify(&touching(&[4].into()), later, || ());
    assert!(listener.take().is_none(), "4 is not its concern");
    concerns.notify(&Touched::all(), later, || ());
    assert!(listener.take().unwrap().touched.all);
    drop(listener);
    let state = concerns.state();
    assert!(state.mailboxes.is_empty() && state.inverted.streams.is_empty());
}
