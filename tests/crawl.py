"""A small crawl on disk, with something for every stage to find."""

import gzip
import json
import random
from pathlib import Path

WORDS = (
    "river stone light winter garden letter mountain harbour music engine window forest paper silver morning question history "
    "village market teacher ocean bridge doctor kitchen travel number answer circle story copper"
).split()


def prose(seed, sentences=14):
    """English-looking sentences that no two seeds share."""
    rng = random.Random(seed)
    made = [" ".join(rng.choice(WORDS) for _ in range(rng.randint(8, 14))).capitalize() + "." for _ in range(sentences)]
    return " ".join(made)


def page(title, text):
    paragraphs = "".join(f"<p>{part}.</p>" for part in text.split(". "))
    return (
        f"<html><head><title>{title}</title><script>var a = 1;</script></head><body><nav><a href='/'>Home</a> <a "
        f"href='/x'>More</a>"
        f"</nav><article><h1>{title}</h1>{paragraphs}</article><footer>All rights reserved</footer></body></html>"
    )


def warc_record(url, date, html):
    body = html if isinstance(html, bytes) else html.encode()
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + body
    name = "<urn:test:" + url.replace("/", "_") + date + ">"
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: {name}\r\nWARC-Date: {date}\r\nWARC-Target-URI: {url}\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + http + b"\r\n\r\n", mtime=0)


def write_crawl(directory: Path, pages=24) -> Path:
    """web/*.warc.gz and books.jsonl; returns the directory."""
    (directory / "web").mkdir(parents=True)
    footer = "Subscribe to the weekly letter of our editors today"
    for file in range(3):
        records = [
            warc_record(f"https://site{n % 5}.org/page/{n}", "2024-01-01T00:00:00Z", page(f"Page {n}", f"{prose(n)} {footer}."))
            for n in range(file, pages, 3)
        ]
        if file == 0:  # page 1 again: newer, and other
            records.append(
                warc_record("https://www.site1.org/page/1/?utm_source=x", "2025-01-01T00:00:00Z", page("Page 1", prose(1001)))
            )
            records.append(warc_record("https://adult.example.com/a", "2024-01-01T00:00:00Z", page("No", prose(77))))
        if file == 1:
            records.append(b"this is no record at all")
        (directory / f"web/part-{file}.warc.gz").write_bytes(b"".join(records))
    base = prose(500, 40)
    log = "\n".join(
        f"ERROR 2024-01-01 12:{n // 60:02}:{n % 60:02} connection refused by host {n}, trying again" for n in range(80)
    )
    books = [
        {"id": "original", "text": base},
        {"id": "the same", "text": base},
        {"id": "nearly the same", "text": base + " And a word more."},
        {"id": "log", "text": log},
        {
            "id": "exam",
            "text": prose(600) + " the capital of the old kingdom by the sea was moved to the hills in spring " + prose(601),
        },
        {"id": "mail", "text": prose(602) + " Write to jane.doe@example.org for it."},
        *({"id": f"book {n}", "text": prose(n + 700), "license": "CC0-1.0"} for n in range(20)),
    ]
    (directory / "books.jsonl").write_text("".join(json.dumps(book) + "\n" for book in books) + '{"text": 3}\nnot json\n')
    exam = {"question": "The capital of the old kingdom by the sea was moved to the hills in spring, true or false?"}
    (directory / "exam.jsonl").write_text(json.dumps(exam) + "\n")
    (directory / "blocked.txt").write_text("# hosts\nadult.example.com\n")
    return directory


RUN = """
name: small
sources:
  web: {paths: [web]}
  books: {paths: [books.jsonl], language: en}
engine: {workers: 1}
domains: {lists: {adult: blocked.txt}}
lines: {sources: [web]}
heuristics: {rules: {default: {repetition: {}, divergence: {min_corpus_tokens: 1000}}}}
decontaminate: {evaluations: [exam.jsonl]}
write: {vocab_size: 600, held_out_fraction: 0.1}
"""
