from test_vectors_care import *  # noqa
def test_demo(library):
    print(command(library)("status").output)
    print(command(library)("recall","--table","documents").output)
