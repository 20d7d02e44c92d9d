"""The words of the scripted world, written for it: what seekers say and how supporters reply.

A slot ``{…}`` is filled from ``SLOTS`` or with the topic. Every supporter act has cues of its own
(`acts.py`), so that a reply can be recognised from its wording alone.
"""

from collections.abc import Mapping

TOPICS: tuple[str, ...] = ("job", "exam", "breakup", "sleep", "money", "family", "moving", "health")
"""What a seeker's problem is about."""

SITUATION = "I have trouble with my {topic} and I do not know what to do."

DISTRESS: Mapping[int, tuple[str, ...]] = {
    1: ("I feel a little lighter now.", "It hurts less than before.", "I can breathe again."),
    2: ("I still feel low.", "It still weighs on me.", "I am sad, but I can bear it."),
    3: ("I feel bad most of the day.", "I am really worn out.", "It makes me so sad."),
    4: ("I feel awful.", "I can hardly get through the day.", "It is eating me up."),
    5: ("It is all too much.", "I am at the end of my rope.", "I can not take it any more."),
}
EXPLORED: Mapping[int, tuple[str, ...]] = {
    0: (
        "I do not know where to begin.",
        "Something has been wrong for a while.",
        "It is hard to talk about it.",
    ),
    1: (
        "It has to do with my {topic}.",
        "I keep thinking of my {topic}.",
        "It began with my {topic}.",
    ),
    2: (
        "So that is the whole story of my {topic}.",
        "Now you know all about my {topic}.",
        "That is really all there is to my {topic}.",
    ),
}
TRUST: Mapping[int, tuple[str, ...]] = {
    0: ("I am not sure that talking helps.", "You do not know me.", "I rarely tell anyone."),
    1: ("It is good that you listen.", "Thanks for taking the time.", "You seem kind."),
    2: ("You really understand me.", "I trust you with this.", "I feel safe with you."),
}
RESISTS: tuple[str, ...] = (
    "Do not tell me what to do.",
    "That is easy for you to say.",
    "You make it sound so simple.",
)
SOLVED: tuple[str, ...] = (
    "I will do that about my {topic}, and I feel at peace. Thank you.",
    "That is what I will do. My {topic} is no longer a problem. Thank you.",
)
SILENCE = "I do not know what to say."

SLOTS: Mapping[str, tuple[str, ...]] = {
    "opener": ("", "", "", "Hm. ", "I see. "),
    "when": ("today", "this week", "last night", "in the last days"),
    "feeling": ("sad", "tired", "hurt", "lonely", "lost", "afraid"),
    "step": (
        "making a small plan for",
        "asking a friend about",
        "writing a list about",
        "taking one step with",
    ),
}

REPLIES: Mapping[str, tuple[str, ...]] = {
    "question": (
        "{opener}Can you tell me more about what happened {when}?",
        "{opener}What has been on your mind {when}?",
        "{opener}When did you first notice it?",
        "{opener}What was it like for you {when}?",
    ),
    "restate": (
        "{opener}So you are saying that your {topic} is what it comes down to.",
        "{opener}If I hear you right, this is about your {topic}.",
        "{opener}In other words, your {topic} is behind all this.",
    ),
    "reflect": (
        "{opener}It sounds like you feel {feeling}.",
        "{opener}I can hear how {feeling} this makes you.",
        "{opener}You must feel so {feeling} with all of this.",
    ),
    "reassure": (
        "{opener}You are not alone in this.",
        "{opener}You are doing your best, and that counts.",
        "{opener}I believe in you.",
    ),
    "disclose": (
        "{opener}I have been through this myself.",
        "{opener}The same thing happened to me once.",
        "{opener}I felt {feeling} too when I was in your place.",
    ),
    "inform": (
        "{opener}Studies show that trouble with {topic} is common.",
        "{opener}Many people have a hard time with {topic}.",
        "{opener}Experts say that {topic} gets easier with time.",
    ),
    "suggest": (
        "{opener}You could try {step} your {topic}.",
        "{opener}How about {step} your {topic}.",
        "{opener}Maybe start with {step} your {topic}.",
    ),
    "other": (
        "{opener}Hello there.",
        "{opener}Okay, sure.",
        "{opener}Have a nice day.",
        "{opener}The weather is fine {when}.",
    ),
}

THOUGHTS: Mapping[str, tuple[str, ...]] = {
    "explored": ("closed", "opening", "open"),
    "trust": ("wary", "warming", "trusting"),
    "resists": ("calm", "upset"),
}
"""A supporter's reading of the hidden state, by level."""
