"""words: says which words are not nice, and tells everybody when there is one more."""

from meshq import Context, Service

words = Service("words", version="1.0.0")
rude = {"drat", "fiddlesticks"}


@words.post("/check")
def check(text: dict[str, str]) -> dict[str, list[str]]:
    return {"rude": sorted(rude & set(text["text"].lower().split()))}


@words.put("/rude/{word}")
async def ban(word: str, ctx: Context) -> None:
    rude.add(word.lower())
    await ctx.mesh.publish("words.banned", {"word": word.lower()})


if __name__ == "__main__":
    words.run()
