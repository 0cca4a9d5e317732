"""What a terminal shows: a progress bar is drawn only there, so tests whose output is a pipe never see one."""
import os, pty, sys

CODE = "from wrnb.progress import progress; print('sum', sum(progress([1, 2, 3], 'adding')))"


def test_a_terminal_gets_a_bar_with_its_label(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = []
    def read(terminal):
        shown.append(os.read(terminal, 1024))
        return shown[-1]
    status = pty.spawn([sys.executable, "-W", "ignore", "-c", CODE], read)
    text = b"".join(shown).decode()
    assert status == 0, text
    assert "sum 6" in text and "adding" in text
