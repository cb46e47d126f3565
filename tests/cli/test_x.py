import pytest


def test_x(house, prepared, bank, tmp_path):
    import shutil, subprocess, json

    shutil.rmtree("/tmp/gh", ignore_errors=True)
    shutil.copytree(house.folder, "/tmp/gh")
    print(house.tables().keys(), prepared.consent_id)
    json.dump(
        {"used": prepared.used, "waiting": prepared.waiting, "id": prepared.consent_id}, open("/tmp/gh.json", "w")
    )
    r = house.run("consents", "list", "--json")
    print(r)
    r = house.run("consents", "sync", prepared.consent_id, "--here")
    print(r)
