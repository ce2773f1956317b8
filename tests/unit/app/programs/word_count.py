"""Words of sentences, counted by word: one agent splits, a stream goes on by the word, another counts."""
# mypy: ignore-errors

import streamflow as faust

app = faust.App("word-count", broker="kafka://localhost:9092", store="rocksdb://", topic_partitions=4)


class Word(faust.Record):
    word: str


posts_topic = app.topic("posts", value_type=str)
words_topic = app.topic("words", key_type=str, value_type=Word)
word_counts = app.Table("word_counts", default=int, help="How often each word was seen.")


@app.agent(posts_topic)
async def shuffle_words(posts):
    async for post in posts:
        for word in post.lower().split():
            await count_words.send(key=word, value=Word(word=word))


@app.agent(words_topic)
async def count_words(words):
    """Counts every word."""
    async for word in words.group_by(Word.word):
        word_counts[word.word] += 1


@app.page("/count/{word}/")
@app.table_route(table=word_counts, match_info="word")
async def get_count(web, request, word):
    return web.json({word: word_counts[word]})
