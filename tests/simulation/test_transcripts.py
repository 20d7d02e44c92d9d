from pathlib import Path

from rlff_lightning.simulation.transcripts import write_markdown
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
