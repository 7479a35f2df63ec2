"""What an EC2 system decides without anybody's answer: options, disks, plans, prices, tags, what a refusal means."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from bigmachine.errors import Cause, ProvisionError
from bigmachine.system.cost import Use, receipt
from bigmachine.systems.ec2.bucket import TokenBucket
from bigmachine.systems.ec2.catalogue import InstanceType, Prices
from bigmachine.systems.ec2.disks import block_devices, data_volumes
from bigmachine.systems.ec2.failures import Kind, Refused
from bigmachine.systems.ec2.keys import distinct
from bigmachine.systems.ec2.monitor import Facts
from bigmachine.systems.ec2.options import HostFile, Options, Unit, dollars, words
from bigmachine.systems.ec2.place import agent_of, instance_of
from bigmachine.systems.ec2.plan import Plan, Rung, Tried, Where, ladder, refusal
from bigmachine.systems.ec2.reaping import Leftover, forgotten
from bigmachine.systems.ec2.system import EC2System
from bigmachine.systems.ec2.tags import EXPIRY, Origin, expiry

LARGE = InstanceType("m5.large", 2, 8 << 30, "x86_64")
OLD = InstanceType("m3.medium", 1, 4 << 30, "x86_64", frozenset(("on-demand",)))


class TestOptions:
    def test_spot_only_wins_over_on_demand(self) -> None:
        options = Options(("m5.large",), ondemand=True, spotonly=True)
        assert (options.may_spot, options.may_demand) == (True, False)

    def test_spot_instances_come_first_by_default_and_others_after_them(self) -> None:
        assert (Options(("m5.large",)).may_spot, Options(("m5.large",)).may_demand) == (True, True)
        assert Options(("m5.large",), ondemand=True).may_spot is False

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"types": ()}, "no type of instance was named"),
            ({"types": ("large",)}, "'large' is no type of instance"),
            ({"flavor": "windows"}, "'windows' is none of debian"),
            ({"region": "moon"}, "'moon' is no region"),
            ({"ami": "debian"}, "is no image"),
            ({"open_to": "everybody"}, "neither 'me' nor a network"),
            ({"life": 36.0}, "life=0.01 is in hours: it has to be at least 0.0167"),
            ({"life": math.nan}, "life=nan is in hours"),
            ({"life": math.inf}, "at most 8760"),
            ({"root_gib": 0}, r"root=0: it has to be 1 to 16384 \(GiB\)"),
            ({"data_gib": 500000}, "data=500000: it has to be 0 to 409600"),
            ({"budget": math.inf}, "and finite"),
            ({"files": (HostFile("x", ""),)}, "the file 'x' .* has to begin with /"),
            ({"files": (HostFile("/x", "", "rwx"),)}, "written like 0644"),
            ({"units": (Unit("mine", ""),)}, "'mine' is no name of a unit"),
            ({"units": (Unit("../mine.service", ""),)}, "is no name of a unit"),
            ({"ssh_keys": ("AAAA",)}, "'AAAA', which is no public key"),
            ({"user": "not me"}, "is no name of a user"),
            ({"budget": -1.0}, "has to be above 0"),
            ({"port": 70000}, "is no port"),
            ({"tags": {"aws:mine": "x"}}, "does not begin with 'aws:'"),
        ],
    )
    def test_what_cannot_be_is_refused(self, options: dict[str, Any], says: str) -> None:
        with pytest.raises(ProvisionError, match=says):
            Options(**{"types": ("m5.large",), **options})

    def test_words_and_dollars_are_read(self) -> None:
        assert words("a, b,a,") == ("a", "b")
        assert dollars("0.25", "x") == 0.25
        with pytest.raises(ProvisionError, match="no amount of dollars"):
            dollars("cheap", "x")

    def test_a_system_is_made_without_the_library_of_the_api(self) -> None:
        assert EC2System(type="m5.large,c5.large").options.types == ("m5.large", "c5.large")

    def test_what_a_configuration_file_says_is_taken_as_what_a_program_says(self) -> None:
        table: dict[str, Any] = {"files": [{"path": "/x", "content": "y"}], "tags": {"team": "z"}, "port": 4443}
        table["sshkeys"] = "ssh-ed25519 AAAA me\nssh-rsa BBBB\n"
        options = EC2System(units=[{"name": "a.service", "content": "b", "start": False}], **table).options
        assert options.ssh_keys == ("ssh-ed25519 AAAA me", "ssh-rsa BBBB")
        assert options.files == (HostFile("/x", "y"),)
        assert options.units == (Unit("a.service", "b", start=False),)
        assert (options.tags, options.port) == ({"team": "z"}, 4443)

    @pytest.mark.parametrize(
        ("table", "says"),
        [
            ({"files": ["/x"]}, r"files has '/x': each has to be a table with path \(str\), content"),
            ({"files": [{"path": "/x"}]}, "missing 1 required positional argument: 'content'"),
            ({"files": [{"path": "/x", "content": 1}]}, "each has to be a table"),
            ({"units": [{"name": "a", "content": "b", "on": True}]}, r"name \(str\), content \(str\), start \(bool\)"),
            ({"tags": {"team": 1}}, "both have to be strings"),
            ({"port": "443"}, "'443' is no port"),
            ({"tags": "team"}, "tags='team' is no table"),
            ({"life": "24"}, "life='24' is no number of hours"),
            ({"root": "200"}, "root='200': it has to be 1 to"),
        ],
    )
    def test_what_a_configuration_file_says_is_checked(self, table: dict[str, Any], says: str) -> None:
        with pytest.raises(ProvisionError, match=says):
            EC2System(**table)


class TestDisks:
    @pytest.mark.parametrize(
        ("space", "volumes"),
        [(0, ()), (1, (16,)), (33, (16, 16, 16)), (400, (16,) * 25), (1000, (40,) * 25), (1001, (41,) * 25)],
    )
    def test_a_data_space_is_striped_over_volumes(self, space: int, volumes: tuple[int, ...]) -> None:
        assert data_volumes(space) == volumes
        assert sum(volumes) >= space

    def test_the_root_disk_has_room_for_the_system_and_never_less_than_its_image(self) -> None:
        (root,) = block_devices(Options(("m5.large",)), "/dev/xvda", 8)
        assert root["Ebs"] == {"VolumeSize": 250, "VolumeType": "gp3", "DeleteOnTermination": True}
        (root,) = block_devices(Options(("m5.large",), root_gib=1), "/dev/xvda", 500)
        assert root["Ebs"]["VolumeSize"] == 500

    def test_data_volumes_have_names_of_their_own(self) -> None:
        names = [each["DeviceName"] for each in block_devices(Options(("m5.large",), data_gib=400), "/dev/xvda")]
        assert len(set(names)) == 26
        assert names[-1] == "/dev/sdz"


class TestLadder:
    PRICES = Prices({("m5.large", "a"): 0.04, ("m5.large", "b"): 0.06}, {"m5.large": 0.1, "m3.medium": 0.07})

    def test_spot_of_all_zones_together_comes_before_on_demand_type_by_type(self) -> None:
        rungs, dropped = ladder(Options(("m5.large", "m3.medium")), [LARGE, OLD], self.PRICES, [Where()])
        assert [str(rung) for rung in rungs] == [
            "spot m5.large in a, b",
            "on-demand m5.large in any zone",
            "on-demand m3.medium in any zone",
        ]
        assert dropped == ("spot m3.medium in any zone: there are none of this type",)

    def test_a_cap_leaves_out_what_is_dearer_and_what_has_no_price(self) -> None:
        options = Options(("m5.large",), max_price=0.05)
        rungs, dropped = ladder(options, [LARGE], Prices(self.PRICES.spot, {}), [Where()])
        assert [str(rung) for rung in rungs] == ["spot m5.large in a"]
        assert [each.partition(": ")[2] for each in dropped] == [
            "it costs $0.06/h, and the cap is $0.05/h",
            "its price is not known, and there is a cap of $0.05/h",
        ]

    def test_a_budget_leaves_out_what_has_no_price(self) -> None:
        rungs, dropped = ladder(Options(("m5.large",), budget=5.0), [LARGE], Prices(self.PRICES.spot, {}), [Where()])
        assert [str(rung) for rung in rungs] == ["spot m5.large in a, b"]
        assert [each.partition(": ")[2] for each in dropped] == ["its price is not known, and there is a budget of $5"]

    def test_a_cap_below_the_market_is_refused(self) -> None:
        with pytest.raises(ProvisionError, match=r"raise ec2maxprice.*\n.*costs \$0.04/h"):
            ladder(Options(("m5.large",), max_price=0.01, spotonly=True), [LARGE], self.PRICES, [Where()])

    def test_chosen_places_are_asked_one_by_one(self) -> None:
        places = [Where("subnet-1", "a"), Where("subnet-2", "b")]
        rungs, _ = ladder(Options(("m5.large",), ondemand=True), [LARGE], self.PRICES, places)
        assert [rung.offers[0].where.subnet for rung in rungs] == ["subnet-1", "subnet-2"]

    def test_a_plan_shows_what_an_hour_costs(self) -> None:
        rungs, dropped = ladder(Options(("m5.large",)), [LARGE], self.PRICES, [Where()])
        lines = str(Plan(10, "eu-west-1", "ami-1", 7200, rungs, dropped)).splitlines()
        assert lines[0] == "10 machines in eu-west-1 from ami-1, 2 h at most; in this order:"
        assert lines[2].split() == ["spot", "m5.large", "a", "2", "0.04", "0.4"]

    def test_a_refusal_lists_what_was_tried_and_why_it_failed(self) -> None:
        rungs, dropped = ladder(Options(("m5.large", "m3.medium")), [LARGE, OLD], self.PRICES, [Where()])
        tried = [Tried(rung, 3, 0, "InsufficientInstanceCapacity: none left") for rung in rungs]
        text = str(refusal(3, tried, dropped))
        assert text.count("0 of 3 (InsufficientInstanceCapacity: none left)") == 3
        assert "not asked: spot m3.medium" in text
        assert isinstance(rungs[0], Rung)


class TestRefusals:
    @pytest.mark.parametrize(
        ("code", "status", "kind"),
        [
            ("RequestLimitExceeded", 503, Kind.THROTTLED),
            ("InsufficientInstanceCapacity", 500, Kind.CAPACITY),
            ("InternalError", 500, Kind.TRANSIENT),
            ("SomethingNew", 502, Kind.TRANSIENT),
            ("InvalidAMIID.NotFound", 400, Kind.FINAL),
        ],
    )
    def test_a_code_says_what_to_do_and_its_status_only_if_nothing_is_known(
        self, code: str, status: int, kind: Kind
    ) -> None:
        assert Refused("RunInstances", code, "no", status).kind is kind

    def test_a_role_that_spot_instances_need_is_told_apart_from_wrong_credentials(self) -> None:
        code = "AuthFailure.ServiceLinkedRoleCreationNotPermitted"
        assert "create-service-linked-role" in str(Refused("CreateFleet", code, "No.").told())
        assert "check AWS_PROFILE" in str(Refused("CreateFleet", "AuthFailure", "No.").told())

    def test_expired_credentials_are_told_with_the_remedy(self) -> None:
        error = Refused("DescribeImages", "ExpiredToken", "The token has expired.").told()
        assert str(error).endswith("log in again, as by `aws sso login`, and start anew")
        assert error.temporary is False


def test_a_bucket_gives_a_burst_and_then_one_a_second() -> None:
    bucket = TokenBucket(1.0, 2.0, now=100.0)
    assert [bucket.take(100.0) for _ in range(4)] == [0, 0, 1, 2]
    assert bucket.take(110.0) == 0
    assert [bucket.take(110.0), bucket.take(110.0)] == [0, 1]


class TestFate:
    GONE = Facts("i-1", "terminated", code="Server.SpotInstanceTermination", reason="Spot instance termination")

    def test_an_instance_that_was_taken_was_preempted(self) -> None:
        assert self.GONE.is_gone
        assert self.GONE.fate == (Cause.PREEMPTED, "its instance i-1 is terminated: Spot instance termination")

    def test_one_that_was_switched_off_from_within_was_not(self) -> None:
        facts = dataclasses.replace(self.GONE, code="Client.InstanceInitiatedShutdown", reason="")
        assert facts.fate[0] is Cause.SIGNAL

    def test_addresses_are_ordered_as_in_go(self) -> None:
        facts = Facts("i-1", "running", dns="ec2-1.example", public="203.0.113.1", private="10.0.0.1")
        assert facts.addresses == ("ec2-1.example", "203.0.113.1", "10.0.0.1")
        assert not facts.is_gone


class TestCost:
    def test_a_machine_costs_what_its_host_does(self) -> None:
        use = Use("i-1", "t", "a", "spot", 3.6, 0.0, None, "i1")
        bill = receipt([use, Use("i-2", "t", "a", "spot", 3.6, 0.0)], 1.0)
        assert bill.of("i1-m7") is use
        assert bill.of("i1") is None
        assert bill.of("i3-m1") is None

    def test_a_receipt_adds_up_by_the_second_and_at_least_a_minute(self) -> None:
        uses = [Use("i-1", "t", "a", "spot", 3.6, 0.0, 100.0), Use("i-2", "t", "a", "spot", 3.6, 90.0, None)]
        bill = receipt(uses, 100.0)
        assert bill.per_hour == 3.6
        assert bill.total == pytest.approx(0.100 + 0.060)
        assert bill.is_complete

    def test_an_unknown_price_is_said(self) -> None:
        bill = receipt([Use("i-1", "t", "", "on-demand", None, 0.0)], 50.0)
        assert (bill.is_complete, bill.unpriced) == (False, 1)
        assert str(bill).endswith("and what is unknown")


class TestTags:
    ORIGIN = Origin("abcd", "laptop", "me", "prog.py", 1_800_000_000.0)

    def test_ours_cannot_be_overwritten_and_the_name_can(self) -> None:
        tags = self.ORIGIN.tags("r1", {"bigmachine": "no", "Name": "mine", "team": "x"})
        assert (tags["bigmachine"], tags["Name"], tags["team"]) == ("true", "mine", "x")
        assert expiry(tags) == 1_800_000_000.0
        assert expiry({EXPIRY: "soon"}) is None

    def test_only_what_has_outlived_itself_is_forgotten_unless_a_session_is_named(self) -> None:
        kept = Leftover("r", "instance", "i-1", expiry=200.0, session="a")
        old = Leftover("r", "instance", "i-2", expiry=50.0, session="b")
        foreign = Leftover("r", "instance", "i-3", session="c")
        assert forgotten([kept, old, foreign], 100.0) == [old]
        assert forgotten([kept, old, foreign], 100.0, ["a"]) == [kept]


def test_ids_of_agents_and_instances_are_one_another() -> None:
    assert agent_of("i-0abc12") == "i0abc12"
    assert instance_of("i0abc12") == "i-0abc12"


def test_of_keys_each_goes_once_and_nothing_else_does() -> None:
    key = "ssh-ed25519 AAAA me@here"
    assert distinct([key, "ssh-ed25519 AAAA other", "", "# no key", "private BBBB"]) == (key,)
