from trainer.events import Evaluation, EventWriter, Message, Step, read_events


def test_events_come_back_as_they_were_written(tmp_path):
    path = tmp_path / "events.jsonl"
    written = [
        Message(message="hello"),
        Step(step=1, epoch=0.1, loss=2.5, lr=1e-5, images_per_s=10, data_wait_share=0.1, eta_s=4),
        Evaluation(step=1, dataset="validation", task="zero_shot", weights="raw", num_samples=3, metrics={"top1": 0.5}),
    ]
    with EventWriter(path) as writer:
        for event in written:
            writer.write(event)
    assert read_events(path)[0] == written


def test_half_a_line_waits_for_its_end(tmp_path):
    path = tmp_path / "events.jsonl"
    first, second = (Message(message=text).model_dump_json() for text in ("one", "two"))
    path.write_text(first + "\n" + second[:10])
    events, offset = read_events(path)
    assert [event.message for event in events] == ["one"]
    with path.open("a") as file:
        file.write(second[10:] + "\n")
    events, end = read_events(path, offset)
    assert [event.message for event in events] == ["two"]
    assert read_events(path, end) == ([], end)


def test_a_missing_file_holds_no_events(tmp_path):
    assert read_events(tmp_path / "none.jsonl", 7) == ([], 7)
