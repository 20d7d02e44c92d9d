import json
from pathlib import Path

from rlff_lightning.simulation.transcripts import write_episodes, write_markdown
from rlff_lightning.types import Conversation, Episode, Message, Verdict


def test_markup_in_a_message_is_text_on_the_page(tmp_path: Path) -> None:
    conversation = Conversation(
        id="one\n<i>",
        messages=(
            Message(role="seeker", text="I am *so* sad.\n# Really"),
            Message(role="supporter", text="<b>Oh</b>", reasoning="a_b"),
            Message(role="seeker", text="Better, thanks."),
        ),
    )
    verdict = Verdict(value=0.5, outcome="better", is_success=False)
    page = tmp_path / "page.md"
    write_markdown([Episode(conversation=conversation, verdicts=(verdict,))], page, "Title")
    assert page.read_text(encoding="utf-8").splitlines() == [
        "# Title",
        "",
        r"## one \<i\>: not solved",
        "",
        r"**seeker**: I am \*so\* sad. \# Really",
        "",
        r"**supporter**: *(a\_b)* \<b\>Oh\</b\>",
        "",
        "**seeker**: Better, thanks. [better]",
    ]


def test_why_an_episode_was_broken_off_is_written_whoever_gave_up(tmp_path: Path) -> None:
    opening = Message(role="seeker", text="I am sad.")
    silent = Message(role="supporter", text="", failure="no answer")
    gone = Verdict(value=0.0, outcome="unparsed", is_success=False, failure="no verdict")
    episodes = [
        Episode(conversation=Conversation(id="a", messages=(opening, silent)), verdicts=()),
        Episode(
            conversation=Conversation(id="b", messages=(opening, opening, opening)),
            verdicts=(gone,),
        ),
        Episode(conversation=Conversation(id="c", messages=(opening,)), verdicts=()),
    ]
    write_episodes(episodes, tmp_path / "rows.jsonl")
    first, second, third = map(json.loads, (tmp_path / "rows.jsonl").open())
    assert first["failure"] == first["messages"][-1]["failure"] == "no answer"
    assert second["failure"] == "no verdict"
    assert "failure" not in third | second["messages"][-1]
    write_markdown(episodes, tmp_path / "page.md", "Title")
    page = (tmp_path / "page.md").read_text()
    assert "## a: not solved, broken off: no answer" in page
    assert "## b: not solved, broken off: no verdict" in page
