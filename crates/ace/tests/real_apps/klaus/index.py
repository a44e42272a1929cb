import os

from dulwich import porcelain
from klaus import make_app

HERE = os.path.dirname(os.path.abspath(__file__))
REPOSITORY = os.path.join(HERE, "shop")
if not os.path.isdir(REPOSITORY):
    porcelain.init(REPOSITORY)
    with open(os.path.join(REPOSITORY, "README.md"), "w") as file:
        file.write("# A shop\n")
    porcelain.add(REPOSITORY, [os.path.join(REPOSITORY, "README.md")])
    porcelain.commit(REPOSITORY, b"Open the shop", author=b"Me <me@example.com>", committer=b"Me <me@example.com>")

application = make_app([REPOSITORY], "Our code")
