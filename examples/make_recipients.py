"""Generate `recipients.csv`: 1,000 recipients in many scripts, 27 of them simulated failures.

The file is the same every time. The sandbox chooses a failure by the part of the address before `+` or the last six
digits of the phone number (see `services/sandbox/outcomes.py`). Some are answers, others are reported later.
"""

from __future__ import annotations

import csv
import random
from dataclasses import dataclass
from pathlib import Path

ROWS = 1000
COLUMNS = ("name", "email", "phone", "order_number", "amount", "due_date")

# (name in its own script, its spelling in an address)
NAMES = (
    ("Siti Rahayu", "siti.rahayu"),
    ("Budi Santoso", "budi.santoso"),
    ("Dewi Lestari, S.Kom.", "dewi.lestari"),
    ('Agus "Gus" Wijaya', "agus.wijaya"),
    ("Nguyễn Thị Hương", "huong.nguyen"),
    ("José Ángel Muñoz", "jose.munoz"),
    ("Zoë O'Brien-Łukasz", "zoe.obrien"),
    ("Jürgen Großmann", "juergen.grossmann"),
    ("Ólafur Þór Jónsson", "olafur.jonsson"),
    ("محمد الأمين", "muhammad.alamin"),
    ("فاطمة الزهراء", "fatima.azzahra"),
    ("سارا کریمی", "sara.karimi"),
    ("רותם לוי", "rotem.levi"),
    ("王秀英", "wang.xiuying"),
    ("李伟", "li.wei"),
    ("陳美玲", "chan.meiling"),
    ("佐藤 さくら", "sakura.sato"),
    ("鈴木 ハルト", "haruto.suzuki"),
    ("김서연", "kim.seoyeon"),
    ("สมชาย ใจดี", "somchai.jaidee"),
    ("กานดา ศรีสุข", "kanda.srisuk"),
    ("ꦱꦶꦠꦶ ꦫꦲꦪꦸ", "siti.jawa"),
    ("ꦧꦸꦢꦶ ꦱꦤ꧀ꦠꦺꦴꦱꦺꦴ", "budi.jawa"),
    ("Анна Иванова", "anna.ivanova"),
    ("Олексій Шевченко", "oleksii.shevchenko"),
    ("प्रिया शर्मा", "priya.sharma"),
    ("राहुल वर्मा", "rahul.verma"),
    ("தமிழ்செல்வி குமார்", "tamilselvi.kumar"),
    ("রহিমা বেগম", "rahima.begum"),
    ("Γιώργος Παπαδόπουλος", "giorgos.papadopoulos"),
    ("ნინო ბერიძე", "nino.beridze"),
    ("Արամ Պետրոսյան", "aram.petrosyan"),
    ("ሰላም ተስፋዬ", "selam.tesfaye"),
    ("မောင်မောင်", "maung.maung"),
    ("សុខា ចាន់", "sokha.chan"),
)

# failures and their numbers: by email (local part) and by WhatsApp (error code)
FAILING_EMAILS = {"bounce": 4, "greylist": 2, "flaky": 3, "drop": 2, "late-bounce": 3, "complaint": 2}
FAILING_PHONES = {"131026": 4, "131047": 2, "131000": 2, "131050": 1, "131049": 1, "130472": 1}


@dataclass(frozen=True)
class Failure:
    """A simulated failure: the local part or the error code, and its number within its kind."""

    kind: str
    number: int


def main() -> None:
    """Write the file."""
    path = Path(__file__).with_name("recipients.csv")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows())


def rows() -> list[tuple[str, ...]]:
    """Return all rows, with the simulated failures spread evenly."""
    chance = random.Random(20260131)
    failures = [
        Failure(kind, n) for kind, times in (FAILING_EMAILS | FAILING_PHONES).items() for n in range(1, times + 1)
    ]
    chance.shuffle(failures)
    every = ROWS // len(failures)
    found = []
    for index in range(ROWS):
        failure = failures[index // every] if index % every == every // 2 else None
        found.append(row(index, failure, chance))
    return found


def row(index: int, failure: Failure | None, chance: random.Random) -> tuple[str, ...]:
    """Return one row; emails and phone numbers are unique in the file."""
    name, ascii_name = NAMES[index % len(NAMES)]
    email = f"{ascii_name}.{index:04d}@example.com"
    # the last digits must not look like an error code, which begins with 13
    phone = f"+62812{chance.randrange(20, 100)}{chance.randrange(20, 100)}{index:04d}"
    if failure is not None and failure.kind in FAILING_EMAILS:
        email = f"{failure.kind}+{failure.number}@example.com"
    elif failure is not None:
        phone = f"+62812{10 + failure.number}{failure.kind}"
    amount = f"{chance.randrange(25, 2500)}000"
    return name, email, phone, f"INV-2026-{index + 1:05d}", amount, f"2026-02-{index % 28 + 1:02d}"


if __name__ == "__main__":
    main()
