"""Measure a model on your own questions: a folder with images and one JSON object a line.

Usage: python examples/04_own_task.py
"""

import json
from pathlib import Path

import vlmcomp

EXAMPLES = Path(__file__).parents[1] / "assets/examples"
QUESTIONS = [
    {"image": str(EXAMPLES / "scene-6.png"), "question": "How many circles are there?", "answer": "There are none."},
    {"image": str(EXAMPLES / "scene-13.png"), "question": "Is there a red object?", "answer": "yes", "type": "exist"},
]

task = Path("my-task")  # the name of the folder is the name of the task
task.mkdir(exist_ok=True)
with (task / "task.jsonl").open("w") as file:
    file.writelines(json.dumps(question) + "\n" for question in QUESTIONS)

# For a 7B model on a GPU: "llava-1.5-7b/int4". With results_dir="results" the report and all answers are kept.
result = vlmcomp.benchmark("llava-shapes/int8", tasks=[str(task)])
for row in result.predictions["my-task"]:
    print(f"{row['question']} {row['answer']} (expected: {row['reference']})")
print(f"exact match: {100 * result.report.quality['my-task'].exact_match:.0f} %")
