from rlff_lightning.data.shares import RankShare


def test_shares_are_all_records_once_and_may_be_empty() -> None:
    for count in range(6):
        shares = [RankShare(range(count), num_replicas=3, rank=rank) for rank in range(3)]
        assert sorted(number for share in shares for number in share) == list(range(count))
        assert [len(share) for share in shares] == [len(list(share)) for share in shares]
