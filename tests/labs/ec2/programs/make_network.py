"""Make a network in the region, and say how drivers name it and an image."""

import json

import boto3

ec2 = boto3.client("ec2")
vpc = ec2.create_vpc(CidrBlock="10.80.0.0/16")["Vpc"]["VpcId"]
subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.80.1.0/24")["Subnet"]["SubnetId"]
image = ec2.describe_images()["Images"][0]["ImageId"]
print(json.dumps({"BIGMACHINE_EC2SUBNETS": subnet, "BIGMACHINE_EC2AMI": image}))
